//! Answers of DNS over UDP, beside the floor: a loop that answers every packet with one constant record.
//!
//! Each server is a process of its own, so that its CPU time is counted alone. One client keeps 64 questions
//! under way over loopback. The figures that compare are those of CPU time for an answer: the client takes
//! more of it than either server. Arguments: seconds per row.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::report::Report;
use benches::usage::cpu_seconds;
use dns::{Board, DnsConfig, Server, Service, Stamp, State, Transport, Zone, respond};
use host::lifecycle::Tasks;
use shared::event::Position;
use shared::model::{Instance, ServiceKey};
use tokio_util::sync::CancellationToken;

/// The first arguments of the processes that answer.
const CONSTANT: &str = "constant";
const ZONE: &str = "zone";
/// Questions under way.
const WINDOW: usize = 64;
/// The types of questions, by number.
const A: u16 = 1;
const SRV: u16 = 33;
/// The time after which packets are taken for lost.
const LOST: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(CONSTANT) => return constant(),
        Some(ZONE) => return serve(),
        _ => {}
    }
    let [seconds] = benches::arguments([10])?;
    let length = Duration::from_secs(seconds as u64);
    let report = Report::new("dns", &["answers/s", "µs CPU", "of the floor"]);
    let questions = [
        ("A, 1 instance", "one.shop.muster", A),
        ("A, 3 instances", "three.shop.muster", A),
        ("SRV, 3 instances", "three.shop.muster", SRV),
        ("SRV, 3 instances, by protocol", "_rest._tcp.three.shop.muster", SRV),
        ("A, 1000 instances, cut", "many.shop.muster", A),
        ("A, 1000 instances of 100 weights, cut", "weighted.shop.muster", A),
        ("SRV, 1000 instances, cut", "many.shop.muster", SRV),
        ("A, no such name", "none.shop.muster", A),
    ];
    let floor = measure(CONSTANT, &question("one.shop.muster", A), length)?;
    report.row("one constant record", &[Some(floor.rate), Some(floor.cpu), None]);
    for (what, name, kind) in questions {
        let measured = measure(ZONE, &question(name, kind), length)?;
        let share = Some(floor.cpu / measured.cpu);
        report.row(what, &[Some(measured.rate), Some(measured.cpu), share]);
    }
    Ok(())
}

/// The figures of one server.
struct Measured {
    /// Answers a second, as the client got them.
    rate: f64,
    /// Microseconds of CPU for an answer.
    cpu: f64,
}

fn measure(role: &str, question: &[u8], length: Duration) -> Result<Measured> {
    let server = Running::start(role)?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server.address)?;
    socket.set_read_timeout(Some(LOST))?;
    // The first ones warm up both sides.
    ask(&socket, question, length / 10)?;
    let before = cpu_seconds(server.child.id())?;
    let began = Instant::now();
    let answers = ask(&socket, question, length)?;
    let wall = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(server.child.id())? - before;
    ensure!(answers > 0, "{role} answers nothing");
    Ok(Measured { rate: answers as f64 / wall, cpu: cpu * 1e6 / answers as f64 })
}

/// Asks for a time. Returns the number of answers.
fn ask(socket: &UdpSocket, question: &[u8], length: Duration) -> Result<u64> {
    let mut answer = [0; 2048];
    let mut answers = 0;
    let end = Instant::now() + length;
    for _ in 0..WINDOW {
        socket.send(question)?;
    }
    while Instant::now() < end {
        match socket.recv(&mut answer) {
            Ok(_) => {
                answers += 1;
                socket.send(question)?;
            }
            // All of them are lost.
            Err(_) => {
                for _ in 0..WINDOW {
                    socket.send(question)?;
                }
            }
        }
    }
    Ok(answers)
}

/// A process that answers, ended with this.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(role: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            // The end of its input is its order to stop.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok(Self { address: line.trim().parse()?, child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The floor: a blocking loop, and an answer that was made before.
fn constant() -> Result<()> {
    let origin = DnsConfig::default().origin(here()).context("a zone")?;
    let state = State::Known(Arc::new(Zone::new(origin.clone(), 1, &services(), None)));
    let mut answer = Vec::new();
    let mut rng = fastrand::Rng::new();
    let question = question("one.shop.muster", A);
    respond(&origin, &state, &question, Transport::Udp, &mut answer, &mut rng).context("an answer")?;
    let socket = UdpSocket::bind(here())?;
    println!("{}", socket.local_addr()?);
    let mut packet = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut packet)?;
        if let Some(id) = packet[..length].first_chunk::<2>() {
            answer[..2].copy_from_slice(id);
            socket.send_to(&answer, client)?;
        }
    }
}

/// The server, on one core.
fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tasks = Tasks::new();
    let board = Board::default();
    // A rate that nothing here reaches: its bookkeeping is part of each answer.
    let config = DnsConfig { rate: 1_000_000_000, ..DnsConfig::default() };
    let entered = runtime.enter();
    let server = Server::bind(&config, here(), 1, &board)?;
    board.show(State::Known(Arc::new(Zone::new(server.origin().clone(), 1, &services(), None))));
    println!("{}", server.address());
    server.run(&tasks, &CancellationToken::new());
    drop(entered);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn here() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A question with options, as resolvers send them.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&kind.to_be_bytes());
    question.extend_from_slice(&[0, 1, 0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0]);
    question
}

struct Known(ServiceKey, Vec<Arc<Instance>>);

impl Service for Known {
    fn key(&self) -> Option<&ServiceKey> {
        Some(&self.0)
    }

    fn stamp(&self) -> Stamp {
        Stamp { id: self.0.service_name.as_str().into(), at: Position::default(), digest: 0 }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.1.iter()
    }
}

fn services() -> Vec<Known> {
    [("one", 1), ("three", 3), ("many", 1000), ("weighted", 1000)]
        .map(|(name, count)| {
            let key = ServiceKey {
                app_id: "shop".into(),
                service_name: name.into(),
                version: "1.0.0".into(),
                ..ServiceKey::default()
            };
            let instances = (0..count).map(|number: u32| {
                let address = IpAddr::from((0x0A00_0001 + number).to_be_bytes());
                let weight = if name == "weighted" { 1 + number % 100 } else { 100 };
                Arc::new(Instance {
                    instance_id: format!("{number:032x}"),
                    endpoints: vec![format!("rest://{address}:8080")],
                    properties: std::iter::once(("weight".to_owned(), weight.to_string())).collect(),
                    ..Instance::default()
                })
            });
            Known(key, instances.collect())
        })
        .into()
}
