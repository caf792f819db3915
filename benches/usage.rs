//! What a process has used, as the kernel counts it.

use anyhow::{Context, Result};

/// Ticks of the kernel's CPU accounting per second, the same on every Linux that we run on.
const TICKS: f64 = 100.0;
/// Bytes of a page on the machines that we run on.
const PAGE: f64 = 4096.0;

/// User and system time of a process in seconds, in steps of a hundredth.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a process that was started")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|it| it.parse::<f64>().ok()).context("CPU time");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
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

/// The load of the machine over the last minute, for the reader of the figures.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
