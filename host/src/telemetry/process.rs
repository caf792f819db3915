//! The figures of this process under their usual names, read from `/proc` when someone asks.
//!
//! Where there is no `/proc`, or a line of it looks different, the figure is absent.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// The unit of times in `/proc/<pid>/stat`: a constant of Linux's interface to programs, whatever the
/// kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Makes the instruments; they live as long as the meter's provider.
pub(super) fn observe(meter: &Meter) {
    meter
        .f64_observable_counter("process_cpu_seconds_total")
        .with_description("Processor time used, in seconds.")
        .with_callback(|it| report(it, cpu_seconds()))
        .build();
    gauge(meter, "process_resident_memory_bytes", "Memory in use, in bytes.", || status("VmRSS:"));
    gauge(meter, "process_virtual_memory_bytes", "Address space in use, in bytes.", || status("VmSize:"));
    gauge(meter, "process_threads", "Threads.", || status("Threads:"));
    // Names of the Go runtime, which the old dashboard asks for: threads are threads, tasks are its goroutines.
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
    let started = start_time();
    gauge(meter, "process_start_time_seconds", "Start of the process, in unix seconds.", move || started);
}

/// How often the share of the processor is worked out anew, at most; Service-Center does it every three seconds.
const USAGE_OVER: Duration = Duration::from_secs(3);

/// Reports the processor time used per second, 1.0 being one core, with the label that Service-Center gives it.
/// Once in a process.
pub fn observe_usage(meter: &Meter, instance: &str) {
    let instance = [KeyValue::new("instance", instance.to_owned())];
    let last = Mutex::new((Instant::now(), cpu_seconds().unwrap_or(0.0), 0.0));
    meter
        .f64_observable_gauge("service_center_process_cpu_usage")
        .with_description("Processor time used per second; 1 is one core.")
        .with_callback(move |it| {
            let Some(used) = cpu_seconds() else { return };
            let mut last = last.lock();
            let passed = last.0.elapsed();
            if passed >= USAGE_OVER {
                *last = (Instant::now(), used, (used - last.1) / passed.as_secs_f64());
            }
            it.observe(last.2, &instance);
        })
        .build();
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
        .with_callback(move |it| report(it, read()))
        .build();
}

fn report(instrument: &dyn opentelemetry::metrics::AsyncInstrument<f64>, value: Option<f64>) {
    if let Some(value) = value {
        instrument.observe(value, &[]);
    }
}

/// The fields of `/proc/self/stat` from the third on: the second is a name and may hold anything.
fn stat_fields() -> Option<Vec<String>> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn cpu_seconds() -> Option<f64> {
    let fields = stat_fields()?;
    let (user, system): (f64, f64) = (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn start_time() -> Option<f64> {
    let after_boot: f64 = stat_fields()?.get(19)?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + after_boot / TICKS_PER_SECOND)
}

/// A line of `/proc/self/status`, in bytes where it counts kilobytes.
/// Memory in use by this process, in bytes; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS:").map(|bytes| bytes as u64)
}

fn status(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let mut words = value.split_ascii_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number * 1024.0 } else { number })
}

fn open_fds() -> Option<f64> {
    // Less the one that lists the directory.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
