//! Output formats: tables for people, JSON, YAML and names for programs.

use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regex::Regex;
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
        Format::Yaml => yaml(value)?,
        _ => serde_json::to_string_pretty(value).map_err(|e| Failure::Failed(e.to_string()))? + "\n",
    };
    print(&text)
}

/// What YAML 1.1, which kubectl reads, takes for a boolean, a number or a date where YAML 1.2 sees text.
static MISREAD: LazyLock<Regex> = LazyLock::new(|| {
    let words = "y|n|yes|no|on|off|true|false|null";
    let whole = "[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-f_]+|[0-9][0-9_]*(?:e[-+]?[0-9]+)?)";
    let broken = r"[-+]?(?:[0-9][0-9_]*)?\.[0-9_]*(?:e[-+]?[0-9]+)?|[-+]?\.inf|\.nan";
    let others = r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:t[0-9:.]+z?)?";
    Regex::new(&format!("^(?i:{words}|{whole}|{broken}|{others})$")).expect("a constant")
});
/// Put before such text to carry it through the writer, and taken off again with the quotes put on.
const MARK: &str = "quoted-7c1f9e-";
static MARKED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!("{MARK}([A-Za-z0-9_.:+-]*[A-Za-z0-9_.])")).expect("a constant"));

/// YAML that says the same to readers of 1.1 and of 1.2.
pub fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_yaml_ng::to_string(&marked(value)).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok(MARKED.replace_all(&text, "\"$1\"").into_owned())
}

fn marked(value: &Value) -> Value {
    let mark = |text: &str| if MISREAD.is_match(text) { format!("{MARK}{text}") } else { text.to_owned() };
    match value {
        Value::String(text) => Value::String(mark(text)),
        Value::Array(list) => Value::Array(list.iter().map(marked).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (mark(key), marked(value))).collect()),
        other => other.clone(),
    }
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
    fn text_that_kubectl_would_misread_is_quoted() {
        let value = serde_json::json!({"on": "no", "list": ["y", "1_000", "010", "1:30", "2024-01-01", "1.5", "Off"],
            "plain": ["10.96.0.1", "v1", "nope", "a: b", "127.0.0.1:80"], "real": [true, 7, null]});
        let text = yaml(&value).expect("yaml");
        for line in [
            "\"on\": \"no\"",
            "- \"y\"",
            "- \"1_000\"",
            "- \"010\"",
            "- \"1:30\"",
            "- \"2024-01-01\"",
            "- \"1.5\"",
            "- \"Off\"",
            "- 10.96.0.1",
            "- v1",
            "- nope",
            "- 127.0.0.1:80",
            "- true",
            "- 7",
            "- null",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
        assert_eq!(serde_yaml_ng::from_str::<Value>(&text).expect("read again"), value);
    }

    #[test]
    fn ages_read_like_kubectls() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
