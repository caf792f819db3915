//! The settings on the page, with the addresses of a test, and the proxies that run by them.

use std::net::SocketAddr;

use harness::{Process, eventually, port};

use crate::deploy::read;

/// The address of a gateway's clients, and of its admin port.
pub(super) type Gateway = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Haproxy,
    Nginx,
    Envoy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Tcp,
    Http,
}

/// The fenced block after a heading in the part of the page about a program.
fn settings(program: &str, heading: &str) -> String {
    let page = read("docs/proxies.md");
    let section = page.split("\n## ").find(|section| section.starts_with(program)).expect("the page has it");
    let (_, rest) = section.split_once(&format!("\n### {heading}\n")).expect("it has the heading");
    let (_, rest) = rest.split_once("\n```").expect("it has a block");
    let (_, block) = rest.split_once('\n').expect("the block has a kind");
    block.split_once("\n```").expect("the block ends").0.to_owned() + "\n"
}

/// Replaces something that must be there, everywhere.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the page contains {from}");
    text.replace(from, to)
}

impl Program {
    fn process(self) -> Process {
        match self {
            Self::Haproxy => Process::installed("haproxy", "haproxy"),
            Self::Nginx => Process::installed("nginx", "nginx-light libnginx-mod-stream"),
            Self::Envoy => Process::installed("envoy", "(none: cargo xtask proxies fetches it)"),
        }
    }

    /// The file of the page with these addresses.
    fn file(self, mode: Mode, front: SocketAddr, grpc: SocketAddr, gateways: [Gateway; 2]) -> String {
        let heading = if mode == Mode::Tcp { "TCP" } else { "HTTP" };
        let hosts = ["10.0.0.11", "10.0.0.12"];
        match self {
            Self::Haproxy => {
                let mut text =
                    replaced(&settings("HAProxy", heading), "bind :30100", &format!("bind {front}"));
                for (host, (api, admin)) in hosts.iter().zip(gateways) {
                    // Gateways of one machine cannot share the admin port, which is the same for all there.
                    text = replaced(
                        &text,
                        &format!("{host}:30100"),
                        &format!("{api} port {admin}", admin = admin.port()),
                    );
                }
                text
            }
            Self::Nginx => {
                let mut text = settings("nginx", heading);
                if mode == Mode::Http {
                    text += &settings("nginx", "gRPC");
                    text = replaced(&text, "listen 30102", &format!("listen {grpc}"));
                }
                text = replaced(&text, "listen 30100", &format!("listen {front}"));
                for (host, (api, _)) in hosts.iter().zip(gateways) {
                    text = replaced(&text, &format!("{host}:30100"), &api.to_string());
                }
                framed(&text, mode)
            }
            Self::Envoy => {
                let any = r#"address: "::", ipv4_compat: true, port_value: 30100"#;
                let mut text = settings("Envoy", heading);
                text = replaced(&text, any, &format!("address: 127.0.0.1, port_value: {}", front.port()));
                for (host, (api, admin)) in hosts.iter().zip(gateways) {
                    let at = format!("address: {host}, port_value: 30100");
                    text = replaced(&text, &at, &format!("address: 127.0.0.1, port_value: {}", api.port()));
                    text = text.replacen("port_value: 30101", &format!("port_value: {}", admin.port()), 1);
                }
                text
            }
        }
    }
}

/// A whole file of nginx, as one process that keeps its files together.
fn framed(text: &str, mode: Mode) -> String {
    let begin = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {}\n";
    if mode == Mode::Tcp {
        return format!("load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{begin}{text}");
    }
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = folders.iter().map(|name| format!("{name}_temp_path {name};\n")).collect();
    format!("{begin}http {{\naccess_log off;\n{folders}{text}}}\n")
}

/// True when somebody listens on the address. A connection would tell as well, but a proxy that learns from
/// connections must not have learnt anything yet.
fn listens(address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("is readable");
    // The local port stands in hexadecimal, and 0A is the state of a listener.
    let port = format!(":{:04X}", address.port());
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"0A")
    })
}

/// A proxy before two gateways.
pub(super) struct Proxy {
    pub(super) front: SocketAddr,
    /// The address for gRPC, which may be another one.
    pub(super) grpc: SocketAddr,
    program: Program,
    process: Process,
}

impl Proxy {
    /// Starts it with the settings of the page, which `alter` has changed.
    pub(super) async fn start(
        program: Program,
        mode: Mode,
        gateways: [Gateway; 2],
        alter: impl Fn(&str) -> String,
    ) -> Self {
        let front = port::local();
        let grpc = if (program, mode) == (Program::Nginx, Mode::Http) { port::local() } else { front };
        let process = program.process();
        let folder = process.directory().to_owned();
        let file = folder.join("settings.yaml");
        std::fs::write(&file, alter(&program.file(mode, front, grpc, gateways))).expect("written");
        let process = match program {
            Program::Haproxy => process.args(["-db", "-f"]),
            Program::Nginx => process.args(["-p".into(), folder.into_os_string()]).args(["-c"]),
            Program::Envoy => {
                process.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"])
            }
        };
        let process = process.args([file]);
        process.start();
        eventually("the proxy listens", || async {
            assert!(process.is_running(), "the proxy has ended");
            listens(front).then_some(())
        })
        .await;
        Self { front, grpc, program, process }
    }

    /// What the program says of its version.
    pub(super) fn version(&self) -> String {
        let flag = if self.program == Program::Envoy { "--version" } else { "-v" };
        let text = self.process.output_of(&[flag]);
        text.lines().find(|line| line.contains("version")).unwrap_or_default().trim().to_owned()
    }
}
