//! CPU and memory of a process, as the kernel counts them.

use anyhow::{Context, Result};

/// Bytes of a page on the machines that we run on.
const PAGE: f64 = 4096.0;

/// CPU seconds of a process' threads, user and system, as the scheduler counts them: in nanoseconds, while
/// the usual accounting has ticks of a hundredth. What a thread has used goes with it when it ends, so the
/// process must keep those that do the work.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).context("a process that was started")? {
        // A thread that ended between the two calls has no file any more.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next().context("CPU time")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// CPU seconds of all that runs on the machine so far, in the kernel's ticks of a hundredth; what the host of
/// a virtual machine took away counts too.
///
/// # Errors
/// When the kernel's file cannot be read or understood.
pub fn machine_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("a line for all cores")?;
    let ticks = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    // user, nice, system, (idle, waiting), irq, softirq, steal; guests are in the first two.
    let busy: f64 = ticks.iter().take(3).chain(ticks.iter().skip(5).take(3)).sum();
    Ok(busy / 100.0)
}

/// Resident bytes of a process.
///
/// # Errors
/// When there is no such process.
pub fn resident(pid: u32) -> Result<f64> {
    let statm =
        std::fs::read_to_string(format!("/proc/{pid}/statm")).context("a process that was started")?;
    let pages = statm.split_whitespace().nth(1).context("resident pages")?.parse::<f64>()?;
    Ok(pages * PAGE)
}

/// Bytes of the kernel's objects and of what its sockets hold, of the whole machine.
///
/// # Errors
/// When the kernel's file cannot be read or understood.
pub fn kernel_bytes() -> Result<f64> {
    // Objects that can be reclaimed are left out: most of them belong to the file system's caches, which grow
    // with every file that is read and say nothing about connections.
    let objects = number_in("/proc/meminfo", "SUnreclaim:", ":")? * 1024.0;
    let sockets = number_in("/proc/net/sockstat", "TCP:", "mem ")? * PAGE;
    Ok(objects + sockets)
}

/// Reads the number behind the text `after` in the line of a kernel's file that begins with `start`.
fn number_in(file: &str, start: &str, after: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find(|line| line.starts_with(start)).context("a line of the kernel's")?;
    let rest = line.split(after).nth(1).context("a number")?;
    Ok(rest.split_whitespace().next().context("a number")?.parse()?)
}

/// The load of the machine over the last minute, for the reader of the figures.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_shows_as_cpu_time() {
        let before = cpu_seconds(std::process::id()).expect("runs");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        // On a busy machine part of the time is others'.
        let used = cpu_seconds(std::process::id()).expect("runs") - before;
        assert!(used > 0.0005, "{used}");
    }
}
