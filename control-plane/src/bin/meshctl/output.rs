//! Output formats: tables for people, JSON, YAML and names for programs.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::client::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Yaml,
    /// A table with more columns.
    Wide,
    /// kind/name, one a line.
    Name,
}

/// Prints a value as JSON or YAML.
pub fn structured(format: Format, value: &Value) -> Result<(), Failure> {
    let text = match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|e| Failure::Failed(e.to_string()))?,
        _ => serde_json::to_string_pretty(value).map_err(|e| Failure::Failed(e.to_string()))? + "\n",
    };
    print(&text)
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// Rows under headings, columns padded to their widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    print(&table_text(headings, rows))
}

pub fn table_text(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(|c| if c.is_empty() { "-" } else { c.as_str() }));
    }
    text
}

/// How long ago, as kubectl writes it: `5s`, `3m`, `2h`, `4d`.
pub fn age(since: Duration) -> String {
    let s = since.as_secs();
    match s {
        0..=119 => format!("{s}s"),
        120..=7_199 => format!("{}m", s / 60),
        7_200..=172_799 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// The age of a protobuf timestamp.
pub fn age_of(at: Option<&sidemesh_proto::google::Timestamp>) -> String {
    let Some(at) = at else { return String::new() };
    let then = UNIX_EPOCH + Duration::from_secs(u64::try_from(at.seconds).unwrap_or(0));
    age(SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO))
}

/// `12.3 ms` or `1.50 s`.
pub fn millis(d: Option<&sidemesh_proto::google::Duration>) -> String {
    let Some(d) = d else { return "-".to_owned() };
    let seconds = d.seconds as f64 + f64::from(d.nanos) / 1e9;
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let rows = vec![vec!["product".to_owned(), String::new()], vec!["a".to_owned(), "3".to_owned()]];
        assert_eq!(table_text(&["NAME", "N"], &rows), "NAME      N\nproduct   -\na         3\n");
    }

    #[test]
    fn ages_read_like_kubectls() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
