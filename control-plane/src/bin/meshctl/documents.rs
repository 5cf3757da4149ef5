//! Documents from files, directories and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::client::Failure;

/// One YAML or JSON document and where it came from.
pub struct Document {
    pub origin: String,
    pub value: Value,
}

impl Document {
    pub fn text(&self) -> String {
        self.value.to_string()
    }

    /// `HTTPRoute/product`, as far as the document says.
    pub fn title(&self) -> String {
        let part = |v: &Value| v.as_str().unwrap_or("?").to_owned();
        format!("{}/{}", part(&self.value["kind"]).to_lowercase(), part(&self.value["metadata"]["name"]))
    }
}

/// Reads every document of the given files; `-` is standard input, a directory stands for its YAML and JSON files.
pub fn read(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::Usage(format!("standard input: {e}")))?;
            parse("standard input", &text, &mut documents)?;
        } else if file.is_dir() {
            for path in listing(file)? {
                parse_file(&path, &mut documents)?;
            }
        } else {
            parse_file(file, &mut documents)?;
        }
    }
    if documents.is_empty() {
        let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        return Err(Failure::Usage(format!("{}: no documents there", names.join(", "))));
    }
    Ok(documents)
}

fn listing(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::Usage(format!("{}: {e}", dir.display())))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| matches!(e.to_str(), Some("yaml" | "yml" | "json"))))
        .collect();
    paths.sort();
    Ok(paths)
}

fn parse_file(path: &Path, documents: &mut Vec<Document>) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    parse(&path.display().to_string(), &text, documents)
}

/// Splits a YAML stream; a `List` becomes its items.
pub fn parse(origin: &str, text: &str, documents: &mut Vec<Document>) -> Result<(), Failure> {
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let wrong = |e: String| Failure::Usage(format!("{origin}, document {}: {e}", index + 1));
        // By way of YAML's own value, which refuses keys that are there twice.
        let value = serde_yaml_ng::Value::deserialize(document).map_err(|e| wrong(e.to_string()))?;
        let value = serde_json::to_value(value).map_err(|e| wrong(e.to_string()))?;
        match value {
            Value::Null => {}
            Value::Object(ref map) if map.get("kind").and_then(Value::as_str).is_some_and(|k| k == "List") => {
                let items = map.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                documents.extend(items.into_iter().map(|value| Document { origin: origin.to_owned(), value }));
            }
            Value::Object(_) => documents.push(Document { origin: origin.to_owned(), value }),
            other => {
                let start: String = other.to_string().chars().take(40).collect();
                return Err(wrong(format!("expected an object, found `{start}`")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(text: &str) -> Result<Vec<String>, Failure> {
        let mut documents = Vec::new();
        parse("a.yaml", text, &mut documents)?;
        Ok(documents.iter().map(Document::title).collect())
    }

    #[test]
    fn streams_lists_and_empty_documents() {
        let text =
            "kind: Service\nmetadata: {name: a}\n---\n---\nkind: List\nitems: [{kind: Service, metadata: {name: b}}]\n";
        assert_eq!(titles(text).expect("valid"), ["service/a", "service/b"]);
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let error = titles("kind: Service\nmetadata: {name: a, name: b}\n").expect_err("must fail").to_string();
        assert!(error.contains("duplicate"), "{error}");
    }

    #[test]
    fn errors_name_file_and_document() {
        let error = titles("kind: Service\n---\n- x\n").expect_err("must fail").to_string();
        assert!(error.contains("a.yaml, document 2"), "{error}");
    }
}
