//! The dialects that are asked again and again: Prometheus' discovery, Eureka, DNS.

use std::net::SocketAddr;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::asking::{Answer, get, stamp_of, text};
use super::eureka::{self, Applications};
use super::{Dialect, PATIENCE, PAUSE, Part, Record, Told};
use crate::Client;
use crate::oracle::STAMP;

/// Asks one gateway until the end.
pub(super) async fn follow(part: &Part, record: &Mutex<Record>) {
    let (api, dns) = part.gateways[0];
    let client = Client::new(api);
    let mut applications = Applications::default();
    loop {
        let asking = async {
            match part.dialect {
                Dialect::HttpSd => http_sd(&client, &part.name).await,
                Dialect::Eureka => eureka::one(&client, &part.name).await,
                Dialect::EurekaDelta => applications.ask(&client, &part.name).await,
                _ => of_dns(dns, &part.name, &part.fixed[0]).await,
            }
        };
        let answer = timeout(PATIENCE, asking).await.ok().flatten();
        {
            let mut record = record.lock();
            match answer {
                Some(Answer::Told(told)) => record.note(&part.fixed, told),
                Some(Answer::Denied(words)) => record.fault(words),
                Some(Answer::Unknown) | None => record.begin_anew(),
            }
        }
        sleep(PAUSE).await;
    }
}

async fn http_sd(client: &Client, name: &str) -> Option<Answer> {
    let path = format!("/prometheus/v1/targets?app=shop&env=&service={name}");
    let body = match get(client, &path).await? {
        Ok(body) => body,
        Err(answer) => return Some(answer),
    };
    let groups = body.as_array().into_iter().flatten();
    let told = groups.map(|group| {
        let labels = &group["labels"];
        let stamp = stamp_of(&labels[format!("__meta_muster_property_{STAMP}")]);
        (text(&labels["__meta_muster_instance_id"]), stamp)
    });
    Some(Answer::Told(told.collect()))
}

/// The names of all instances, and the stamp of the first one that is always there.
async fn of_dns(server: SocketAddr, name: &str, first: &str) -> Option<Answer> {
    let zone = format!("{name}.shop.muster.");
    let suffix = format!(".instance.{zone}");
    let services = ask(server, &zone, RecordType::SRV).await?;
    let texts = ask(server, &format!("{first}{suffix}"), RecordType::TXT).await?;
    let mut told = Told::new();
    for (asked, message) in [("SRV", &services), ("TXT", &texts)] {
        match message.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::ServFail => return Some(Answer::Unknown),
            code => return Some(Answer::Denied(format!("{asked} of {zone}: {code}"))),
        }
    }
    for record in &services.answers {
        let data = record.data.to_string();
        let target = data.rsplit(' ').next().unwrap_or_default();
        // With one address the target is the name of the instance.
        told.insert(target.strip_suffix(&suffix).unwrap_or(target).to_owned(), None);
    }
    let property = format!("property.{STAMP}=");
    let stamp = texts.answers.iter().find_map(|record| {
        let data = record.data.to_string();
        let rest = data.split_once(&property)?.1;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    // Of two questions the second may know more than the first, and is the only one with a stamp.
    if stamp.is_none() {
        return Some(Answer::Denied(format!("{first} has no stamp: {texts:?}")));
    }
    if let Some(own) = told.get_mut(first) {
        *own = stamp;
    }
    Some(Answer::Told(told))
}

/// Asks over TCP: all instances have no room in a packet.
async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Option<Message> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).ok()?, kind));
    let question = message.to_vec().ok()?;
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_u16(u16::try_from(question.len()).ok()?).await.ok()?;
    stream.write_all(&question).await.ok()?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut bytes).await.ok()?;
    Message::from_vec(&bytes).ok()
}
