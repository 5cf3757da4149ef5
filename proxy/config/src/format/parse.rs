//! Format strings → [`Format`]: text, `%%`, and operators `%NAME(argument):length%`.

use super::operator::{self, Length};
use super::{Format, Piece};

/// What is wrong with a format string, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at position {position} of the format: {reason}")]
pub struct FormatError {
    pub position: usize,
    pub reason: String,
}

/// Parses a format string.
pub fn parse(text: &str) -> Result<Format, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut position = 0;
    while let Some(at) = text[position..].find('%').map(|at| position + at) {
        literal.push_str(&text[position..at]);
        if text[at + 1..].starts_with('%') {
            literal.push('%');
            position = at + 2;
            continue;
        }
        let command = command(&text[at..]).ok_or_else(|| not_a_command(text, at))?;
        let piece = compile(&command).map_err(|reason| FormatError { position: at, reason })?;
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        position = at + command.len;
    }
    literal.push_str(&text[position..]);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(Format { pieces })
}

/// One operator as it is written.
struct Command<'t> {
    name: &'t str,
    argument: Option<&'t str>,
    max_length: Option<&'t str>,
    /// Bytes from `%` to `%`.
    len: usize,
}

/// Reads `%NAME(argument):length%` at the start of `text`.
fn command(text: &str) -> Option<Command<'_>> {
    let name_len = text[1..].find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, rest) = text[1..].split_at(name_len);
    if name.is_empty() {
        return None;
    }
    let build = |argument, max_length, rest: &str| Command { name, argument, max_length, len: text.len() - rest.len() };
    let Some(inner) = rest.strip_prefix('(') else {
        let (max_length, rest) = tail(rest)?;
        return Some(build(None, max_length, rest));
    };
    // An argument may hold `)` and `%`: it ends at the first `)` that the rest of an operator follows.
    inner.match_indices(')').find_map(|(end, _)| {
        let (max_length, rest) = tail(&inner[end + 1..])?;
        Some(build(Some(&inner[..end]), max_length, rest))
    })
}

/// `%` or `:length%`: the length, and what follows.
fn tail(text: &str) -> Option<(Option<&str>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let text = text.strip_prefix(':')?;
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let rest = text[digits..].strip_prefix('%')?;
    (digits > 0).then_some((Some(&text[..digits]), rest))
}

fn not_a_command(text: &str, at: usize) -> FormatError {
    let shown: String = text[at..].chars().take(32).collect();
    let reason = format!(
        "`{shown}` is no operator `%NAME%`, `%NAME(argument)%` or `%NAME(argument):length%`; write `%%` for a `%`"
    );
    FormatError { position: at, reason }
}

fn compile(command: &Command<'_>) -> Result<Piece, String> {
    let name = command.name;
    let (operator, length) = operator::compile(name, command.argument)?;
    let max_length = match (command.max_length, length) {
        (None, _) => None,
        (Some(_), Length::Refused) => return Err(format!("operator `{name}` takes no maximum length")),
        (Some(digits), Length::Allowed) => {
            Some(digits.parse().map_err(|_| format!("maximum length `{digits}` of `{name}` is too large"))?)
        }
    };
    Ok(Piece::Operator { operator, max_length })
}
