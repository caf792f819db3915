//! What does one event cost for N watchers, and what an idle one? The gateway beside a bare loop that writes.
//!
//! `cargo bench -p edge-gateway --bench fanout -- 10000` prints one line of JSON per variant and phase: CPU
//! (user and system, of this process only; the watchers live in a child process) per million deliveries,
//! deliveries per second, and for the idle phase the resident memory per watcher. Compare lines of one run only.

#[path = "../tests/system/control_plane.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod control_plane;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use edge_gateway::config::{LimitsConfig, SessionConfig};
use edge_gateway::forward::InProcess;
use edge_gateway::{App, Config};
use shared::admin::Readiness;
use shared::bus::LocalBus;
use shared::event::{Action, frame_json};
use shared::lifecycle::Tasks;
use shared::telemetry::metrics::Metrics;

use control_plane::ControlPlane;

const PATH: &str = "/v4/default/registry/microservices/c/watcher";
const SINGLES: usize = 20;
const BURST: usize = 100;
/// Bytes of the head that the bare loop answers an upgrade with.
const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    if let [role, address, count] = &arguments[..]
        && role == "watchers"
    {
        return watchers(address.parse()?, count.parse()?);
    }
    let count = arguments.first().map_or(Ok(1000), |it| it.parse())?;
    bare(count)?;
    tokio::runtime::Runtime::new()?.block_on(gateway(count))
}

async fn gateway(count: usize) -> anyhow::Result<()> {
    let bus = LocalBus::new();
    let control_plane = ControlPlane::start(Arc::new(bus.clone())).await;
    control_plane.consumer("c", &["p"]);
    let (tasks, metrics) = (Tasks::new(), Metrics::new([])?);
    let session = SessionConfig {
        ping_interval: Duration::from_secs(3600),
        read_timeout: Duration::from_secs(7200),
        write_timeout: Duration::from_secs(60),
    };
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        limits: LimitsConfig { node: 0, domain: 0, consumer: 0 },
        session,
        ..Config::default()
    };
    let forward = Arc::new(InProcess::new(Router::new()));
    let readiness = Readiness::new(&tasks);
    let app = App::build(config, Arc::new(bus), forward, &metrics.meter("bench"), &readiness, &tasks).await?;
    let address = app.api_addr;
    tasks.spawn_vital("app", app.run());
    readiness.ready().await;

    let before = resident();
    let mut clients = Watchers::start(address, count)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report("gateway", "idle", count, &[("bytes_per_watcher", (resident() - before) / count as f64)]);

    let mut size = 0;
    for (phase, rounds, events) in [("warm", 2, 1), ("single", SINGLES, 1), ("burst", 2, BURST)] {
        let (cpu, began) = (cpu_seconds(), Instant::now());
        for _ in 0..rounds {
            let mut bytes = 0;
            let mut told = Vec::new();
            for _ in 0..events {
                let event = control_plane.commit("p", Action::Update, "an-instance-of-the-usual-length");
                size = frame_json(event.action, &event.key, &event.instance).len();
                bytes += size + if size < 126 { 2 } else { 4 };
                told.push(event);
            }
            for event in &told {
                control_plane.publish(event).await;
            }
            clients.wait_for(bytes * count)?;
        }
        measured("gateway", phase, count, rounds * events * count, cpu_seconds() - cpu, began.elapsed());
    }
    let _ = size;
    tasks.drain().cancel();
    tasks.abort().cancel();
    Ok(())
}

/// The floor: no runtime, no protocol, one write per delivery; in bursts too.
fn bare(count: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let accepting = std::thread::spawn(move || -> anyhow::Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        let mut head = [0; 1024];
        while streams.len() < count {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let _ = stream.read(&mut head)?;
            stream.write_all(HEAD.as_bytes())?;
            streams.push(stream);
        }
        Ok(streams)
    });
    let mut clients = Watchers::start(address, count)?;
    let mut streams = accepting.join().expect("does not panic")?;
    let frame = vec![b'x'; 300];
    for (phase, rounds, events) in [("warm", 2, 1), ("single", SINGLES, 1), ("burst", 2, BURST)] {
        let (cpu, began) = (cpu_seconds(), Instant::now());
        for _ in 0..rounds {
            for _ in 0..events {
                for stream in &mut streams {
                    stream.write_all(&frame)?;
                }
            }
            clients.wait_for(frame.len() * events * count)?;
        }
        measured("bare", phase, count, rounds * events * count, cpu_seconds() - cpu, began.elapsed());
    }
    Ok(())
}

fn measured(variant: &str, phase: &str, watchers: usize, deliveries: usize, cpu: f64, took: Duration) {
    let millions = deliveries as f64 / 1e6;
    let figures =
        [("cpu_s_per_million", cpu / millions), ("deliveries_per_s", deliveries as f64 / took.as_secs_f64())];
    report(variant, phase, watchers, &figures);
}

fn report(variant: &str, phase: &str, watchers: usize, figures: &[(&str, f64)]) {
    let figures: Vec<String> =
        figures.iter().map(|(name, value)| format!(r#""{name}":{value:.2}"#)).collect();
    println!(r#"{{"variant":"{variant}","phase":"{phase}","watchers":{watchers},{}}}"#, figures.join(","));
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Resident bytes of this process.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}

/// The child process with the watchers.
struct Watchers {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Watchers {
    fn start(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["watchers", &address.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (ask, answer) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut it = Self { child, ask, answer: BufReader::new(answer) };
        it.line()?;
        Ok(it)
    }

    /// Waits until all watchers together have read so many more bytes.
    fn wait_for(&mut self, bytes: usize) -> anyhow::Result<()> {
        writeln!(self.ask, "{bytes}")?;
        self.line()
    }

    fn line(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        anyhow::ensure!(self.answer.read_line(&mut line)? > 0, "the watchers ended");
        Ok(())
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child: connects, says so, then reads and counts.
fn watchers(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let read = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        for _ in 0..count {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            let request = format!(
                "GET {PATH} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let read = read.clone();
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                    read.fetch_add(bytes, Ordering::Relaxed);
                }
            });
        }
        println!("ready");
        let (asked, mut asking) = tokio::sync::mpsc::channel::<usize>(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let Ok(bytes) = line.parse() else { return };
                if asked.blocking_send(bytes).is_err() {
                    return;
                }
            }
        });
        let mut wanted = 0;
        while let Some(bytes) = asking.recv().await {
            wanted += bytes;
            while read.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            println!("done");
        }
        anyhow::Ok(())
    })
}
