//! Writes descriptors as Rust statics without pointers: what `src/json/table.rs` includes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

#[derive(Default)]
struct All<'a> {
    /// By full name with its leading dot.
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    text: String,
    spans: HashMap<String, usize>,
}

/// Rust source of `MESSAGES` (sorted by name), `FIELDS` (by number within a message), `ENUMS`, `VALUES` and `TEXT`.
pub(crate) fn emit(set: &FileDescriptorSet) -> Result<String, String> {
    let mut all = All::default();
    for file in &set.file {
        let prefix = format!(".{}", file.package());
        for message in &file.message_type {
            all.collect(&prefix, message);
        }
        for item in &file.enum_type {
            all.enums.insert(format!("{prefix}.{}", item.name()), item);
        }
    }
    all.emit()
}

impl<'a> All<'a> {
    fn collect(&mut self, prefix: &str, message: &'a DescriptorProto) {
        let name = format!("{prefix}.{}", message.name());
        for inner in &message.nested_type {
            self.collect(&name, inner);
        }
        for inner in &message.enum_type {
            self.enums.insert(format!("{name}.{}", inner.name()), inner);
        }
        self.messages.insert(name, message);
    }

    fn emit(mut self) -> Result<String, String> {
        let messages = self.messages.clone();
        let enums = self.enums.clone();
        let message_index: HashMap<&str, usize> = messages.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let enum_index: HashMap<&str, usize> = enums.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let (mut message_rows, mut field_rows, mut enum_rows, mut value_rows) =
            (String::new(), String::new(), String::new(), String::new());
        let (mut field_count, mut value_count) = (0, 0);
        for (name, message) in &messages {
            let span = self.span(&name[1..]);
            let form = form(&name[1..])?;
            let count = message.field.len();
            let _ = writeln!(
                message_rows,
                "    Message {{ name: {span}, fields: ({field_count}, {count}), form: Form::{form} }},"
            );
            let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
            fields.sort_by_key(|f| f.number());
            for field in fields {
                let target = match field.r#type() {
                    Type::Message => message_index.get(field.type_name()),
                    Type::Enum => enum_index.get(field.type_name()),
                    _ => Some(&0),
                };
                let target = target.ok_or_else(|| format!("{name}.{}: no {}", field.name(), field.type_name()))?;
                let map = messages.get(field.type_name()).is_some_and(|m| is_map_entry(m));
                let _ = writeln!(field_rows, "    {},", self.field(name, field, *target, map)?);
                field_count += 1;
            }
        }
        for item in enums.values() {
            let _ = writeln!(enum_rows, "    ({value_count}, {}),", item.value.len());
            for value in &item.value {
                let span = self.span(value.name());
                let _ = writeln!(value_rows, "    EnumValue {{ number: {}, name: {span} }},", value.number());
                value_count += 1;
            }
        }
        Ok(format!(
            "static MESSAGES: &[Message] = &[\n{message_rows}];\n\
             static FIELDS: &[Field] = &[\n{field_rows}];\n\
             static ENUMS: &[(u16, u16)] = &[\n{enum_rows}];\n\
             static VALUES: &[EnumValue] = &[\n{value_rows}];\n\
             static TEXT: &str = {:?};\n",
            self.text
        ))
    }

    fn field(
        &mut self,
        message: &str,
        field: &FieldDescriptorProto,
        target: usize,
        map: bool,
    ) -> Result<String, String> {
        if field.json_name.as_ref().is_some_and(|j| *j != camel_case(field.name())) {
            return Err(format!(
                "{message}.{} has a JSON name of its own, which the mapping does not know",
                field.name()
            ));
        }
        let kind = match field.r#type() {
            Type::Group => return Err(format!("{message}.{} is a group", field.name())),
            kind => format!("{kind:?}"),
        };
        let shape = match (field.label(), map) {
            (_, true) => "Map",
            (Label::Repeated, false) => "List",
            _ if field.oneof_index.is_some() || kind == "Message" => "Optional",
            _ => "Plain",
        };
        // A synthetic oneof of an `optional` field has one member: nothing can clash with it.
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => index + 1,
            _ => 0,
        };
        Ok(format!(
            "Field {{ name: {}, number: {}, kind: Kind::{kind}, shape: Shape::{shape}, oneof: {oneof}, target: {target} }}",
            self.span(field.name()),
            field.number(),
        ))
    }

    /// Where `text` stands in the one text.
    fn span(&mut self, text: &str) -> String {
        let start = *self.spans.entry(text.to_owned()).or_insert_with(|| {
            self.text.push_str(text);
            self.text.len() - text.len()
        });
        format!("Span({start}, {})", text.len())
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|o| o.map_entry())
}

/// The special JSON forms of the well-known types.
fn form(full_name: &str) -> Result<&'static str, String> {
    Ok(match full_name.strip_prefix("google.protobuf.") {
        Some("Any") => "Any",
        Some("Duration") => "Duration",
        Some("Timestamp") => "Timestamp",
        Some("Struct") => "Struct",
        Some("Value") => "Value",
        Some("ListValue") => "ListValue",
        Some("Empty") => "Empty",
        Some("Struct.FieldsEntry") => "Fields",
        Some(wrapper) if wrapper.ends_with("Value") => "Wrapper",
        Some(_) => return Err(format!("{full_name} has a JSON form that the mapping does not know")),
        None => "Fields",
    })
}

fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.extend(c.to_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}
