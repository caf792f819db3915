//! Properties that only bytes show: the case of header names, bodies that must be absent, connections that
//! stay.

use std::io::Read;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Run;
use crate::server::Server;

pub(crate) fn trials() -> Vec<(String, Run)> {
    let all: [(&str, Run); 7] = [
        ("header names are in title case", Box::new(|server| Box::pin(title_case(server)))),
        (
            "304 has a revision and no body, and the connection stays",
            Box::new(|server| Box::pin(not_modified(server))),
        ),
        (
            "an empty answer says that it is empty, and the connection stays",
            Box::new(|server| Box::pin(empty(server))),
        ),
        ("HEAD has no body", Box::new(|server| Box::pin(head(server)))),
        ("header names are taken in any case", Box::new(|server| Box::pin(any_case(server)))),
        ("large answers are compressed for those who ask", Box::new(|server| Box::pin(gzip(server)))),
        ("a chunked body is taken", Box::new(|server| Box::pin(chunked(server)))),
    ];
    all.map(|(name, run)| (name.to_owned(), run)).into()
}

/// One connection.
struct Wire {
    stream: BufReader<TcpStream>,
    domain: String,
}

/// An answer as it came over the connection.
struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Wire {
    async fn open(server: &Server) -> Result<Self, String> {
        let stream = TcpStream::connect(server.address).await.map_err(|e| e.to_string())?;
        let mut wire = Self { stream: BufReader::new(stream), domain: server.domain() };
        let body = r#"{"service":{"serviceId":"s","serviceName":"s"},"instances":[{"instanceId":"i","hostName":"n"}]}"#;
        wire.call("POST", "/microservices", "", body).await?;
        Ok(wire)
    }

    async fn call(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Result<Raw, String> {
        let domain = format!("X-Domain-Name: {}\r\n", self.domain);
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!(
            "{method} /v4/default/registry{path} HTTP/1.1\r\nHost: any.where\r\n{domain}{headers}{length}\r\n{body}"
        );
        self.send(method, &request).await
    }

    async fn send(&mut self, method: &str, request: &str) -> Result<Raw, String> {
        self.stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err(format!("the connection ended: {head}"));
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        // HTTP forbids a body in both cases, even where a length is given.
        let bodyless = method == "HEAD" || status == 304;
        let mut body = vec![0; if bodyless { 0 } else { length.ok_or("no length")? }];
        self.stream.read_exact(&mut body).await.map_err(|e| e.to_string())?;
        Ok(Raw { status, head, body })
    }
}

fn demand(holds: bool, raw: &Raw) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{}{}", raw.head, String::from_utf8_lossy(&raw.body))) }
}

async fn title_case(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    let found = wire.call("GET", "/microservices/s/instances", "", "").await?;
    for name in [
        "\r\nX-Resource-Revision: ",
        "\r\nContent-Type: application/json; charset=UTF-8\r\n",
        "\r\nContent-Length: ",
        "\r\nServer: ",
    ] {
        demand(found.head.contains(name), &found)?;
    }
    wire.call("PUT", "/microservices/s/schemas/x", "", r#"{"schema":"S"}"#).await?;
    let schema = wire.call("GET", "/microservices/s/schemas/x", "", "").await?;
    demand(schema.head.contains("\r\nX-Schema-Summary: "), &schema)?;
    let refused = wire.call("PUT", "/dependencies", "", "{}").await?;
    demand(refused.status == 400 && refused.head.contains("\r\nDeprecation: version=\"v4\"\r\n"), &refused)
}

async fn not_modified(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    let path = "/instances?appId=default&serviceName=s&version=0%2B";
    let found = wire.call("GET", path, "", "").await?;
    let rev = found.head.lines().find_map(|line| line.strip_prefix("X-Resource-Revision: "));
    let rev = rev.ok_or("no revision")?.to_owned();
    let url_safe = !rev.is_empty() && rev.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    demand(url_safe, &found)?;
    let same = wire.call("GET", &format!("{path}&rev={rev}"), "", "").await?;
    demand(same.status == 304 && same.head.contains(&format!("\r\nX-Resource-Revision: {rev}\r\n")), &same)?;
    // Bytes of a body would be read as the next answer.
    let next = wire.call("GET", "/microservices/s", "", "").await?;
    demand(next.status == 200, &next)
}

async fn empty(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    for _ in 0..3 {
        let beat = wire.call("PUT", "/microservices/s/instances/i/heartbeat", "", "").await?;
        demand(beat.status == 200 && beat.head.contains("\r\nContent-Length: 0\r\n"), &beat)?;
        demand(!beat.head.to_ascii_lowercase().contains("connection: close"), &beat)?;
    }
    Ok(())
}

async fn head(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    let known = wire.call("HEAD", "/microservices/s", "", "").await?;
    demand(known.status == 405 && known.head.contains("\r\nAllow: GET, DELETE\r\n"), &known)?;
    let next = wire.call("GET", "/microservices/s", "", "").await?;
    demand(next.status == 200, &next)
}

async fn any_case(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    for name in ["x-consumerid", "X-CONSUMERID", "X-ConsumerId"] {
        let refused =
            wire.call("GET", "/microservices/s/instances", &format!("{name}: nobody\r\n"), "").await?;
        demand(String::from_utf8_lossy(&refused.body).contains("\"errorCode\":\"400012\""), &refused)?;
        let nobody = wire.call("GET", "/microservices/s/instances", &format!("{name}:\r\n"), "").await?;
        demand(nobody.status == 200, &nobody)?;
    }
    Ok(())
}

async fn gzip(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    let small = wire.call("GET", "/microservices/s", "Accept-Encoding: gzip\r\n", "").await?;
    demand(!small.head.contains("Content-Encoding"), &small)?;
    for n in 0..20 {
        let body = format!(r#"{{"instance":{{"instanceId":"i{n}","hostName":"n"}}}}"#);
        wire.call("POST", "/microservices/s/instances", "", &body).await?;
    }
    let path = "/microservices/s/instances";
    let plain = wire.call("GET", path, "", "").await?;
    demand(plain.body.len() > 1400 && !plain.head.contains("Content-Encoding"), &plain)?;
    let small = wire.call("GET", path, "Accept-Encoding: gzip\r\n", "").await?;
    demand(
        small.head.contains("\r\nContent-Encoding: gzip\r\n") && small.body.len() < plain.body.len(),
        &small,
    )?;
    let mut unpacked = Vec::new();
    let read = flate2::read::GzDecoder::new(&small.body[..]).read_to_end(&mut unpacked);
    demand(read.is_ok() && unpacked == plain.body, &plain)
}

async fn chunked(server: Arc<Server>) -> Result<(), String> {
    let mut wire = Wire::open(&server).await?;
    let body = r#"{"properties":{"a":"b"}}"#;
    let request = format!(
        "PUT /v4/default/registry/microservices/s/properties HTTP/1.1\r\nHost: x\r\nX-Domain-Name: {}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        wire.domain,
        body.len()
    );
    let answer = wire.send("PUT", &request).await?;
    demand(answer.status == 200, &answer)
}
