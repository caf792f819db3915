//! The usual metrics of a process (`process_*`), read from `/proc` at each scrape.
//!
//! A figure is absent when there is no `/proc`, or when its line there has another form than on Linux.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// The unit of times in `/proc/<pid>/stat`. Linux's interface to programs fixes it; the kernel's own
/// tick may differ.
const TICKS_PER_SECOND: f64 = 100.0;

/// Makes the instruments; they live as long as the meter's provider.
pub(super) fn observe(meter: &Meter) {
    meter
        .f64_observable_counter("process_cpu_seconds_total")
        .with_description("Processor time used, in seconds.")
        .with_callback(|observer| report(observer, cpu_seconds()))
        .build();
    gauge(meter, "process_resident_memory_bytes", "Memory in use, in bytes.", || status("VmRSS:"));
    gauge(meter, "process_virtual_memory_bytes", "Address space in use, in bytes.", || status("VmSize:"));
    gauge(meter, "process_threads", "Threads.", || status("Threads:"));
    // Service-Center's dashboard queries these names of the Go runtime. Our tasks stand for its goroutines.
    gauge(meter, "go_threads", "Threads, under the name that old dashboards know.", || status("Threads:"));
    if let Ok(runtime) = Handle::try_current() {
        let tasks = move || Some(runtime.metrics().num_alive_tasks() as f64);
        gauge(
            meter,
            "go_goroutines",
            "Tasks of the runtime, under the name that old dashboards know.",
            tasks,
        );
    }
    gauge(meter, "process_open_fds", "File descriptors in use.", open_fds);
    gauge(meter, "process_max_fds", "File descriptors allowed.", max_fds);
    // Read once: it cannot change.
    let started = start_time();
    gauge(meter, "process_start_time_seconds", "Start of the process, in unix seconds.", move || started);
}

/// The shortest time over which the use of the processor is computed. Service-Center's interval is
/// three seconds.
const USAGE_OVER: Duration = Duration::from_secs(3);

/// Makes the gauge of processor time per second (1.0 is one core) with the label that Service-Center gives
/// it. Must be called once in a process.
pub fn observe_usage(meter: &Meter, instance: &str) {
    let instance = [KeyValue::new("instance", instance.to_owned())];
    let usage =
        Mutex::new(Usage { at: Instant::now(), cpu_seconds: cpu_seconds().unwrap_or(0.0), share: 0.0 });
    meter
        .f64_observable_gauge("service_center_process_cpu_usage")
        .with_description("Processor time used per second; 1 is one core.")
        .with_callback(move |observer| {
            let Some(now) = cpu_seconds() else { return };
            let mut usage = usage.lock();
            let passed = usage.at.elapsed();
            // Over a shorter time the coarse ticks would make the figure jump.
            if passed >= USAGE_OVER {
                usage.share = (now - usage.cpu_seconds) / passed.as_secs_f64();
                usage.at = Instant::now();
                usage.cpu_seconds = now;
            }
            observer.observe(usage.share, &instance);
        })
        .build();
}

/// The use of the processor when it was computed last.
struct Usage {
    at: Instant,
    cpu_seconds: f64,
    share: f64,
}

fn gauge(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    meter
        .f64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |observer| report(observer, read()))
        .build();
}

fn report(instrument: &dyn opentelemetry::metrics::AsyncInstrument<f64>, value: Option<f64>) {
    if let Some(value) = value {
        instrument.observe(value, &[]);
    }
}

/// The fields of `/proc/self/stat` from the third on.
fn stat_fields() -> Option<Vec<String>> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, and it may hold blanks and parentheses itself.
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn cpu_seconds() -> Option<f64> {
    let fields = stat_fields()?;
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn start_time() -> Option<f64> {
    let after_boot: f64 = stat_fields()?.get(19)?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + after_boot / TICKS_PER_SECOND)
}

/// The memory in use by this process, in bytes; `None` where the system has no `/proc`.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS:").map(|bytes| bytes as u64)
}

/// The number on the line of `/proc/self/status` that begins with `key`. Kilobytes become bytes.
fn status(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let mut words = value.split_ascii_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number * 1024.0 } else { number })
}

fn open_fds() -> Option<f64> {
    // One of them is the directory itself, open while it is counted.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
