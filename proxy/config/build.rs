//! Compiles the support table (`src/support/table.txt`) into static arrays, and holds it against the descriptors: every
//! field of every message in it must have a line, and every message that a supported field holds must be in it.

#[path = "src/support/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use table::{Line, Section, Status};

const TABLE: &str = "src/support/table.txt";

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["build.rs", TABLE, "src/support/table.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let set = env::var("DEP_SIDEMESH_PROTO_DESCRIPTOR_SET")?;
    println!("cargo::rerun-if-changed={set}");
    let descriptors = Descriptors::read(&FileDescriptorSet::decode(fs::read(set)?.as_slice())?);
    let sections = table::parse(&fs::read_to_string(TABLE)?)?;
    let rust = Compiler::new(&descriptors, &sections).compile()?;
    fs::write(PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("support.rs"), rust)?;
    Ok(())
}

/// Messages and enums by full name.
#[derive(Default)]
struct Descriptors {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Descriptors {
    fn read(set: &FileDescriptorSet) -> Self {
        let mut all = Descriptors::default();
        for file in &set.file {
            for message in &file.message_type {
                all.add(file.package(), message);
            }
            for item in &file.enum_type {
                all.enums.insert(format!("{}.{}", file.package(), item.name()), item.clone());
            }
        }
        all
    }

    fn add(&mut self, prefix: &str, message: &DescriptorProto) {
        let name = format!("{prefix}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner);
        }
        for inner in &message.enum_type {
            self.enums.insert(format!("{name}.{}", inner.name()), inner.clone());
        }
        self.messages.insert(name, message.clone());
    }
}

struct Compiler<'a> {
    descriptors: &'a Descriptors,
    sections: &'a [Section],
    /// Position of each section in the order of names.
    index: BTreeMap<&'a str, usize>,
    text: String,
    problems: Vec<String>,
}

impl<'a> Compiler<'a> {
    fn new(descriptors: &'a Descriptors, sections: &'a [Section]) -> Self {
        let mut names: Vec<&str> = sections.iter().map(|s| s.message.as_str()).collect();
        names.sort_unstable();
        let index = names.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
        Compiler { descriptors, sections, index, text: String::new(), problems: Vec::new() }
    }

    fn compile(mut self) -> Result<String, String> {
        let mut sections: Vec<&Section> = self.sections.iter().collect();
        sections.sort_by(|a, b| a.message.cmp(&b.message));
        let (mut messages, mut fields, mut values) = (String::new(), String::new(), String::new());
        let (mut field_count, mut value_count) = (0, 0);
        for section in sections {
            let Some(message) = self.descriptors.messages.get(&section.message) else {
                self.problems.push(format!("there is no message {}", section.message));
                continue;
            };
            self.compare(section, message);
            let name = self.span(&section.message);
            let optional = optional_number(section, message);
            let _ = writeln!(
                messages,
                "    Message {{ name: {name}, fields: ({field_count}, {}), optional: {optional} }},",
                message.field.len()
            );
            let mut ordered: Vec<&FieldDescriptorProto> = message.field.iter().collect();
            ordered.sort_by_key(|f| f.number());
            for field in ordered {
                let refused = self.refused_values(section, field);
                let line = self.field(section, message, field, value_count, refused.len());
                let _ = writeln!(fields, "    {line},");
                for (number, note) in refused {
                    let note = self.span(&note);
                    let _ = writeln!(values, "    RefusedValue {{ number: {number}, note: {note} }},");
                    value_count += 1;
                }
                field_count += 1;
            }
        }
        if !self.problems.is_empty() {
            return Err(format!("{TABLE}:\n{}", self.problems.join("\n")));
        }
        Ok(format!(
            "pub(super) static MESSAGES: &[Message] = &[\n{messages}];\n\
             pub(super) static FIELDS: &[Field] = &[\n{fields}];\n\
             pub(super) static REFUSED_VALUES: &[RefusedValue] = &[\n{values}];\n\
             pub(super) static TEXT: &str = {:?};\n",
            self.text
        ))
    }

    /// Every field has one line, every line a field.
    fn compare(&mut self, section: &Section, message: &DescriptorProto) {
        for field in &message.field {
            let count = section.lines.iter().filter(|l| l.field == field.name() && l.value.is_none()).count();
            if count != 1 {
                self.problems.push(format!("{}.{} has {count} lines", section.message, field.name()));
            }
        }
        for line in &section.lines {
            if !message.field.iter().any(|f| f.name() == line.field) {
                self.problems.push(format!("{} has no field {}", section.message, line.field));
            }
        }
    }

    fn field(
        &mut self,
        section: &Section,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        first_value: usize,
        values: usize,
    ) -> String {
        let missing = Line { field: String::new(), value: None, status: Status::Rejected, note: String::new() };
        let line = section.lines.iter().find(|l| l.field == field.name() && l.value.is_none()).unwrap_or(&missing);
        let (name, note) = (self.span(field.name()), self.span(&line.note));
        let kind = match line.status {
            Status::Supported => self.kind(section, message, field, first_value, values),
            Status::Hint | Status::Rejected => unset_kind(field).to_owned(),
        };
        let repeated = field.label() == Label::Repeated && !kind.starts_with("Kind::Map");
        format!(
            "Field {{ number: {}, name: {name}, status: Status::{:?}, note: {note}, kind: {kind}, repeated: {repeated} }}",
            field.number(),
            line.status
        )
    }

    fn kind(
        &mut self,
        section: &Section,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        first_value: usize,
        values: usize,
    ) -> String {
        if field.r#type() == Type::Enum {
            return format!("Kind::Enum({first_value}, {values})");
        }
        if field.r#type() != Type::Message {
            return "Kind::Opaque".to_owned();
        }
        let full = field.type_name().trim_start_matches('.');
        let entry = message.nested_type.iter().find(|n| {
            n.options.as_ref().is_some_and(|o| o.map_entry()) && full == format!("{}.{}", section.message, n.name())
        });
        let (prefix, target) = match entry.and_then(|e| e.field.iter().find(|f| f.number() == 2)) {
            Some(value) if value.r#type() == Type::Message => ("Map", value.type_name().trim_start_matches('.')),
            Some(_) => return "Kind::Opaque".to_owned(),
            None => ("", full),
        };
        if target == "google.protobuf.Any" {
            return format!("Kind::{prefix}Any");
        }
        if target.starts_with("google.protobuf.") {
            return "Kind::Opaque".to_owned();
        }
        match self.index.get(target) {
            Some(index) => format!("Kind::{prefix}Message({index})"),
            None => {
                let field = format!("{}.{}", section.message, field.name());
                self.problems.push(format!("{field} is supported, but its type {target} has no section"));
                String::new()
            }
        }
    }

    /// `- field=VALUE why` lines, as numbers.
    fn refused_values(&mut self, section: &Section, field: &FieldDescriptorProto) -> Vec<(i32, String)> {
        let mut refused = Vec::new();
        for line in section.lines.iter().filter(|l| l.field == field.name()) {
            let Some(value) = &line.value else { continue };
            let values = self.descriptors.enums.get(field.type_name().trim_start_matches('.'));
            match values.and_then(|e| e.value.iter().find(|v| v.name() == value)) {
                Some(found) => {
                    let note = if line.note.is_empty() { value.clone() } else { format!("{value}: {}", line.note) };
                    refused.push((found.number(), note));
                }
                None => self.problems.push(format!("{}.{} has no value {value}", section.message, line.field)),
            }
        }
        refused
    }

    /// Where `text` stands in the one text of the table.
    fn span(&mut self, text: &str) -> String {
        let start = self.text.find(text).unwrap_or_else(|| {
            self.text.push_str(text);
            self.text.len() - text.len()
        });
        format!("Span({start}, {})", text.len())
    }
}

/// A text that is not acted on is "not set" when it is empty; a message or list never is.
fn unset_kind(field: &FieldDescriptorProto) -> &'static str {
    match field.r#type() {
        Type::String | Type::Bytes if field.label() != Label::Repeated => "Kind::Text",
        _ => "Kind::Opaque",
    }
}

/// The number of a supported `is_optional`: when it is set, an unknown extension in the message is left out. 0 for none.
fn optional_number(section: &Section, message: &DescriptorProto) -> i32 {
    let supported = section.lines.iter().any(|l| l.field == "is_optional" && l.status == Status::Supported);
    message.field.iter().find(|f| supported && f.name() == "is_optional").map_or(0, |f| f.number())
}
