//! Asks a server of DNS the way its clients do, over UDP and TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Outcome, failed, ok, warning};

/// Asks for the zone itself, and for one that the server must refuse.
pub(super) async fn check(server: SocketAddr, domain: &str, patience: Duration) -> Outcome {
    let Ok(mut zone) = Name::from_ascii(domain) else {
        return failed(format!("`{domain}` is no name of a zone"));
    };
    zone.set_fqdn(true);
    let over_udp = match ask(server, &zone, RecordType::SOA, patience, Way::Udp).await {
        Ok(answer) => answer,
        Err(problem) => return failed(format!("{server} over UDP: {problem}")),
    };
    if let Some(problem) = judged(&over_udp, domain) {
        return problem;
    }
    if let Err(problem) = ask(server, &zone, RecordType::SOA, patience, Way::Tcp).await {
        return failed(format!(
            "{server} answers over UDP, but over TCP: {problem}; long answers need it, so let it through"
        ));
    }
    // A server that answers for everybody can be used against others.
    match ask(server, &Name::root(), RecordType::NS, patience, Way::Udp).await {
        Ok(other) if other.metadata.response_code == ResponseCode::Refused => {
            ok(format!("{server} answers for {zone} over UDP and TCP, and refuses other zones"))
        }
        Ok(_) => warning(format!(
            "{server} answers for {zone} and for other zones, so this is a resolver and no gateway itself"
        )),
        Err(problem) => warning(format!("{server} answers for {zone}, and about another zone: {problem}")),
    }
}

/// The problem of an answer about the zone.
fn judged(answer: &Message, domain: &str) -> Option<Outcome> {
    let metadata = &answer.metadata;
    match metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => None,
        ResponseCode::NoError | ResponseCode::NXDomain => Some(failed(format!(
            "the server does not know the zone {domain}: compare --dns-domain and dns.domain"
        ))),
        ResponseCode::ServFail => Some(failed(
            "SERVFAIL: the gateway does not know all services yet; look at its readiness and its control planes",
        )),
        ResponseCode::Refused => Some(failed(format!(
            "refused: {domain} is not the server's zone (dns.domain), or access control lets nobody read \
             (dns.account)"
        ))),
        other => Some(failed(format!("the server answers with {other}"))),
    }
}

#[derive(Clone, Copy)]
enum Way {
    Udp,
    Tcp,
}

async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    patience: Duration,
    way: Way,
) -> Result<Message, String> {
    let mut message = Message::query();
    message.add_query(Query::query(name.clone(), kind));
    message.set_edns(Edns::new());
    let question = message.to_vec().map_err(|e| e.to_string())?;
    let exchange = async {
        match way {
            Way::Udp => over_udp(server, &question).await,
            Way::Tcp => over_tcp(server, &question).await,
        }
    };
    let answer = match timeout(patience, exchange).await {
        Ok(answer) => answer.map_err(|e| e.to_string())?,
        Err(_) => return Err("no answer in time; is there a firewall in between?".to_owned()),
    };
    let answer = Message::from_vec(&answer).map_err(|e| format!("the answer cannot be read: {e}"))?;
    if answer.metadata.id == message.metadata.id {
        Ok(answer)
    } else {
        Err("the answer belongs to another question".to_owned())
    }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
