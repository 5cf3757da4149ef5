//! The command line: flags as Envoy has them where the meaning is the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// The Sidemesh proxy: serves what its bootstrap and its management server say.
#[derive(Debug, Clone, Parser)]
#[command(name = "sidemesh-proxy", version)]
pub struct Args {
    /// Bootstrap file, YAML or JSON (`.json`).
    #[arg(short, long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// Bootstrap as text, instead of the file or merged over it.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
    /// Worker threads. Default: the CPU limit of the control group, at most the cores.
    #[arg(long, alias = "concurrency", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// How long connections of a removed listener, and of the process at its end, may last.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=u64::from(u32::MAX)))]
    pub drain_time_s: u64,
    /// trace, debug, info, warn, error, off, or a filter such as `info,sidemesh_proxy::xds=debug`.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Overrides node.id.
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,
    /// Overrides node.cluster.
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Overrides node.locality.zone.
    #[arg(long, value_name = "ZONE")]
    pub service_zone: Option<String>,
    /// `validate` checks the bootstrap and ends.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// Get an identity from the mesh's control plane and register this workload (node.metadata.sidemesh says which).
    #[arg(long)]
    pub mesh: bool,
    /// Where the certificate and the last good configuration are kept over restarts.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How bytes go to the kernel. `auto`: by io_uring, one system call for all that the connections of a turn read and write, where
    /// the kernel offers it (Linux 6.1) and lets this process use it, else as with `epoll`: one for each.
    #[arg(long, value_enum, default_value_t = InputOutput::Auto)]
    pub io: InputOutput,
    /// A file with the join token that the first certificate is asked for with.
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputOutput {
    Auto,
    Epoll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Serve,
    Validate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Args {
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s)
    }

    /// How many workers to run.
    pub fn workers(&self) -> usize {
        self.workers.map_or_else(default_workers, usize::from)
    }

    /// The log filter in `tracing`'s words.
    pub fn log_filter(&self) -> String {
        match self.log_level.as_str() {
            "warning" => "warn".to_owned(),
            "critical" => "error".to_owned(),
            other => other.to_owned(),
        }
    }

    /// What was given, for `/server_info`.
    pub fn options(&self) -> Vec<(String, String)> {
        let path = self.config_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        vec![
            ("config_path".to_owned(), path),
            ("concurrency".to_owned(), self.workers().to_string()),
            ("drain_time".to_owned(), format!("{}s", self.drain_time_s)),
            ("log_level".to_owned(), self.log_level.clone()),
        ]
    }
}

/// The CPU limit of the control group, rounded up, at most the cores: `available_parallelism` knows both.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_unknown_ones_refused() {
        let args = Args::parse_from([
            "sidemesh-proxy",
            "-c",
            "b.yaml",
            "--concurrency",
            "3",
            "--drain-time-s",
            "5",
            "-l",
            "warning",
        ]);
        assert_eq!(
            (args.workers(), args.drain_time(), args.log_filter().as_str()),
            (3, Duration::from_secs(5), "warn")
        );
        assert!(Args::try_parse_from(["sidemesh-proxy", "--base-id", "1"]).is_err());
        assert!(Args::try_parse_from(["sidemesh-proxy", "--workers", "0"]).is_err());
        assert!(Args::try_parse_from(["sidemesh-proxy", "--drain-time-s", "18446744073709551615"]).is_err());
    }
}
