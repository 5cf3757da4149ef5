//! Messages that hold format strings: `SubstitutionFormatString`, JSON formats, `HeaderValueOption`.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderName;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::{google, type_url};

use crate::format::{DEFAULT_ACCESS_LOG, Format, Piece, parse};
use crate::matcher::header::HeaderName as AnyHeader;
use crate::rejection::{Rejection, Within};
use crate::resource::access_log::{JsonFormat, LogFormat};
use crate::resource::core::{AppendAction, HeaderEdit, HeaderEdits, HeaderTarget};
use crate::resource::http_connection_manager::{BodyFormat, BodyFormatKind};
use crate::wire::{enumeration, non_empty, optional_name, required, value_to_json};

/// How deep a JSON format may nest.
const MAX_JSON_DEPTH: usize = 32;

/// The format string that the field `name` holds.
pub fn field(text: &str, name: &str) -> Result<Arc<Format>, Rejection> {
    parse(text).map(Arc::new).map_err(|e| Rejection::invalid(name, e.to_string()))
}

/// The format string of an access log as the deprecated `format` fields give it; empty stands for the default.
pub fn text_log_format(text: &str, name: &str) -> Result<LogFormat, Rejection> {
    let text = if text.is_empty() { DEFAULT_ACCESS_LOG } else { text };
    Ok(LogFormat::Text { format: field(text, name)?, omit_empty: false })
}

/// `SubstitutionFormatString` of an access log.
pub fn log_format(f: &core::SubstitutionFormatString, name: &str) -> Result<LogFormat, Rejection> {
    let omit_empty = f.omit_empty_values;
    let sort_properties = f.json_format_options.as_ref().is_some_and(|o| o.sort_properties);
    Ok(match kind(f).within(name)? {
        BodyFormatKind::Text(format) => LogFormat::Text { format, omit_empty },
        BodyFormatKind::Json(format) => LogFormat::Json { format, omit_empty, sort_properties },
    })
}

/// `SubstitutionFormatString` of a body.
pub fn body_format(f: &core::SubstitutionFormatString, name: &str) -> Result<BodyFormat, Rejection> {
    let content_type = optional_name(&f.content_type);
    if http::HeaderValue::from_str(&f.content_type).is_err() {
        return Err(Rejection::invalid("content_type", "is no header value")).within(name);
    }
    Ok(BodyFormat { kind: kind(f).within(name)?, content_type, omit_empty: f.omit_empty_values })
}

fn kind(f: &core::SubstitutionFormatString) -> Result<BodyFormatKind, Rejection> {
    use core::substitution_format_string::Format as Wire;
    for (i, extension) in f.formatters.iter().enumerate() {
        formatter(extension).within_index("formatters", i)?;
    }
    match &f.format {
        Some(Wire::TextFormat(text)) => Ok(BodyFormatKind::Text(field(text, "text_format")?)),
        Some(Wire::JsonFormat(format)) => Ok(BodyFormatKind::Json(Arc::new(json_format(format, "json_format")?))),
        Some(Wire::TextFormatSource(source)) => {
            let text = inline_text(source).within("text_format_source")?;
            Ok(BodyFormatKind::Text(field(&text, "text_format_source")?))
        }
        None => Err(Rejection::invalid("", "needs one of text_format, json_format, text_format_source")),
    }
}

/// A formatter extension whose operators this parser knows anyway.
fn formatter(extension: &core::TypedExtensionConfig) -> Result<(), Rejection> {
    let config = required(&extension.typed_config, "typed_config")?;
    match type_url::message_name(&config.type_url) {
        "envoy.extensions.formatter.metadata.v3.Metadata"
        | "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery" => Ok(()),
        other => {
            Err(Rejection::unsupported("typed_config", format!("formatter `{other}` is not supported; remove it")))
        }
    }
}

fn inline_text(source: &core::DataSource) -> Result<String, Rejection> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.clone()),
        Some(Specifier::InlineBytes(bytes)) => {
            String::from_utf8(bytes.clone()).map_err(|_| Rejection::invalid("inline_bytes", "is not UTF-8"))
        }
        Some(Specifier::Filename(_)) => {
            Err(Rejection::unsupported("filename", "a format cannot be read from a file; give inline_string"))
        }
        Some(Specifier::EnvironmentVariable(variable)) => std::env::var(variable)
            .map_err(|_| Rejection::invalid("environment_variable", format!("`{variable}` is not set"))),
        None => Err(Rejection::invalid("inline_string", "is required")),
    }
}

/// A JSON format: an object whose strings are formats. Keys are kept sorted.
pub fn json_format(s: &google::Struct, name: &str) -> Result<JsonFormat, Rejection> {
    json_object(s, MAX_JSON_DEPTH).within(name)
}

fn json_object(s: &google::Struct, depth: usize) -> Result<JsonFormat, Rejection> {
    let mut fields: Vec<_> = s.fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    let one = |(key, value): (&String, &google::Value)| Ok((key.clone(), json_value(value, depth).within(key)?));
    Ok(JsonFormat::Object(fields.into_iter().map(one).collect::<Result<_, Rejection>>()?))
}

fn json_value(v: &google::Value, depth: usize) -> Result<JsonFormat, Rejection> {
    use google::value::Kind;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Rejection::invalid("", format!("nests deeper than {MAX_JSON_DEPTH} levels")));
    };
    match &v.kind {
        Some(Kind::StringValue(text)) => {
            let format = parse(text).map_err(|e| Rejection::invalid("", e.to_string()))?;
            Ok(match format.as_static() {
                Some(text) => JsonFormat::Literal(text.into()),
                None => JsonFormat::Value(Arc::new(format)),
            })
        }
        Some(Kind::StructValue(s)) => json_object(s, depth),
        Some(Kind::ListValue(list)) => {
            let one = |(i, v)| json_value(v, depth).map_err(|r| r.within(&format!("[{i}]")));
            Ok(JsonFormat::List(list.values.iter().enumerate().map(one).collect::<Result<_, Rejection>>()?))
        }
        _ => Ok(JsonFormat::Literal(value_to_json(v))),
    }
}

/// `<prefix>_to_add` and `<prefix>_to_remove` of a route table's levels. As in Envoy, neither may name a pseudo-header or
/// `host`: paths and hosts are rewritten by the route's action.
pub fn header_edits(
    add: &[core::HeaderValueOption],
    remove: &[String],
    prefix: &str,
) -> Result<HeaderEdits, Rejection> {
    let removed =
        |(i, text): (usize, &String)| removable(text).map_err(|r| r.within(&format!("{prefix}_to_remove[{i}]")));
    Ok(HeaderEdits {
        add: header_additions(add, &format!("{prefix}_to_add"))?,
        remove: remove.iter().enumerate().map(removed).collect::<Result<_, _>>()?,
    })
}

/// One `HeaderValueOption` under the rules of [`header_edits`].
fn settable(option: &core::HeaderValueOption) -> Result<HeaderEdit, Rejection> {
    let edit = option_fields(option)?;
    match edit.target {
        HeaderTarget::Header(_) => Ok(edit),
        _ => Err(Rejection::invalid("header.key", ":-prefixed or host headers may not be modified")),
    }
}

/// A list of `HeaderValueOption`s under the rules of [`header_edits`].
pub fn header_additions(add: &[core::HeaderValueOption], name: &str) -> Result<Vec<HeaderEdit>, Rejection> {
    let one = |(i, option)| settable(option).within_index(name, i);
    add.iter().enumerate().map(one).collect()
}

fn removable(text: &str) -> Result<HeaderName, Rejection> {
    match target(text) {
        Some(HeaderTarget::Header(name)) => Ok(name),
        Some(_) => Err(Rejection::invalid("", format!("`{text}`: :-prefixed or host headers may not be removed"))),
        None => Err(Rejection::invalid("", format!("`{text}` is no header name"))),
    }
}

/// One step of a list of mutations, under the same rules.
pub fn header_edit(option: &core::HeaderValueOption, name: &str) -> Result<HeaderEdit, Rejection> {
    settable(option).within(name)
}

/// A header that may be removed.
pub fn header_removal(text: &str, name: &str) -> Result<HeaderName, Rejection> {
    removable(text).within(name)
}

fn option_fields(option: &core::HeaderValueOption) -> Result<HeaderEdit, Rejection> {
    let header = required(&option.header, "header")?;
    let key = non_empty(&header.key, "key").within("header")?;
    let target =
        target(&key).ok_or_else(|| Rejection::invalid("key", format!("`{key}` is no header name"))).within("header")?;
    let text = match (header.value.as_str(), header.raw_value.as_slice()) {
        (value, []) => value,
        ("", raw) => {
            std::str::from_utf8(raw).map_err(|_| Rejection::invalid("raw_value", "is not UTF-8")).within("header")?
        }
        _ => return Err(Rejection::invalid("header.raw_value", "excludes value; give one of them")),
    };
    let value = field(text, "value").within("header")?;
    let is_text = |piece: &Piece| match piece {
        Piece::Text(text) => !text.contains(['\r', '\n', '\0']),
        Piece::Operator { .. } => true,
    };
    if !value.pieces.iter().all(is_text) {
        return Err(Rejection::invalid("header.value", "must not hold line ends"));
    }
    Ok(HeaderEdit { target, value, action: append_action(option)?, keep_empty_value: option.keep_empty_value })
}

/// What a name in an edit stands for; `None`: it cannot be a header's.
pub fn target(text: &str) -> Option<HeaderTarget> {
    if text.eq_ignore_ascii_case(":status") {
        return Some(HeaderTarget::Status);
    }
    Some(match AnyHeader::parse(text)? {
        AnyHeader::Header(name) => HeaderTarget::Header(name),
        AnyHeader::Method => HeaderTarget::Method,
        AnyHeader::Path => HeaderTarget::Path,
        AnyHeader::Authority => HeaderTarget::Authority,
        AnyHeader::Scheme => HeaderTarget::Scheme,
    })
}

#[allow(deprecated)] // Envoy still takes `append`.
fn append_action(option: &core::HeaderValueOption) -> Result<AppendAction, Rejection> {
    use core::header_value_option::HeaderAppendAction as Wire;
    let action = enumeration::<Wire>(option.append_action, "append_action")?;
    match (&option.append, action) {
        (Some(append), Wire::AppendIfExistsOrAdd) if append.value => Ok(AppendAction::AppendIfExistsOrAdd),
        (Some(_), Wire::AppendIfExistsOrAdd) => Ok(AppendAction::OverwriteIfExistsOrAdd),
        (Some(_), _) => Err(Rejection::invalid("append", "excludes append_action; give append_action alone")),
        (None, Wire::AppendIfExistsOrAdd) => Ok(AppendAction::AppendIfExistsOrAdd),
        (None, Wire::AddIfAbsent) => Ok(AppendAction::AddIfAbsent),
        (None, Wire::OverwriteIfExistsOrAdd) => Ok(AppendAction::OverwriteIfExistsOrAdd),
        (None, Wire::OverwriteIfExists) => Ok(AppendAction::OverwriteIfExists),
    }
}
