//! The text form of the support table. Read by the build script alone.
//!
//! ```text
//! # comment
//! [envoy.config.cluster.v3.Cluster]
//! + name
//! ~ dns_refresh_rate     why it may be ignored
//! - load_assignment      why it is refused (optional)
//! - type=ORIGINAL_DST    a refused value of a supported enum field
//! ```

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Supported,
    Hint,
    Rejected,
}

pub(crate) struct Section {
    pub(crate) message: String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) field: String,
    /// The enum value that the line is about, when it is not about the field.
    pub(crate) value: Option<String>,
    pub(crate) status: Status,
    pub(crate) note: String,
}

pub(crate) fn parse(text: &str) -> Result<Vec<Section>, String> {
    let mut sections: Vec<Section> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(message) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            if sections.iter().any(|s| s.message == message) {
                return Err(wrong("a second section for the message"));
            }
            sections.push(Section { message: message.to_owned(), lines: Vec::new() });
            continue;
        }
        let section = sections.last_mut().ok_or_else(|| wrong("a field outside a section"))?;
        section.lines.push(field(line).ok_or_else(|| wrong("neither `+ field`, `~ field why` nor `- field`"))?);
    }
    Ok(sections)
}

fn field(line: &str) -> Option<Line> {
    let (mark, rest) = line.split_once(' ')?;
    let (field, note) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
    let (field, value) = match field.split_once('=') {
        Some((field, value)) => (field, Some(value.to_owned())),
        None => (field, None),
    };
    let status = match mark {
        "+" => Status::Supported,
        "~" if !note.is_empty() => Status::Hint,
        "-" => Status::Rejected,
        _ => return None,
    };
    Some(Line { field: field.to_owned(), value, status, note: note.trim().to_owned() })
}
