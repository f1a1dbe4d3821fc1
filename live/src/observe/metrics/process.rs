//! Metrics of the process, under the names that all Prometheus clients use.

use rustix::process::{Resource, getrlimit};
use std::fmt::Write;

/// Appends the metrics of the process to a page; a metric that the system does not provide is left out.
pub(super) fn write(page: &mut String, started_s: f64) {
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = write!(page, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0)
    };
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let most = getrlimit(Resource::Nofile).current.map(|most| most as f64);
    add("process_cpu_seconds_total", "counter", "CPU time of the process, user and system", cpu());
    add("process_resident_memory_bytes", "gauge", "Resident memory", kb("VmRSS:"));
    add("process_virtual_memory_bytes", "gauge", "Virtual memory", kb("VmSize:"));
    add("process_open_fds", "gauge", "Open file descriptors", files);
    add("process_max_fds", "gauge", "File descriptors the process may open", most);
    add("process_start_time_seconds", "gauge", "Start of the process, since 1970", Some(started_s));
}

fn cpu() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in parentheses: utime and stime are fields 14 and 15, in 1/100 s on Linux.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
