//! The workspace's own source text, as the tidy tests read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// A source file: its path below the root and its text.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// Test code keeps to no size.
    pub fn is_test(&self) -> bool {
        let name = self.path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let in_tests =
            self.path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "benches" | "fuzz")));
        in_tests || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The text before the first inline test module.
    pub fn production(&self) -> &str {
        match self.text.find("#[cfg(test)]\nmod tests {") {
            Some(at) => &self.text[..at],
            None => &self.text,
        }
    }
}

/// All Rust files below `dir` of the workspace.
pub fn rust_files(dir: &str) -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    let mut todo = vec![root.join(dir)];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs")
                && let Ok(text) = fs::read_to_string(&path)
            {
                files.push(Source { path: path.strip_prefix(&root).unwrap_or(&path).to_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Functions longer than `limit` lines, as `path:line name lines`.
pub fn long_functions(source: &Source, limit: usize) -> Vec<String> {
    let lines: Vec<&str> = source.production().lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let body_less =
            lines[i..].iter().take(12).find(|l| l.ends_with('{') || l.ends_with(';')).is_some_and(|l| l.ends_with(';'));
        if body_less || line.ends_with('}') {
            continue;
        }
        if let Some(length) = lines[i..].iter().position(|l| *l == closing).filter(|length| length + 1 > limit) {
            found.push(format!("{}:{} fn {name}: {} lines", source.path.display(), i + 1, length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if rest.starts_with("//") {
        return None;
    }
    loop {
        let stripped = ["pub(crate) ", "pub(super) ", "pub ", "async ", "const ", "unsafe "]
            .iter()
            .find_map(|p| rest.strip_prefix(p));
        match stripped {
            Some(r) => rest = r,
            None => break,
        }
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// Which top-level modules of a crate name which others, by `crate::` paths outside tests.
pub fn module_graph(src: &str) -> BTreeMap<String, BTreeSet<String>> {
    let files = rust_files(src);
    let depth = Path::new(src).components().count();
    let module_of = |s: &Source| -> Option<String> {
        let first = s.path.components().nth(depth)?.as_os_str().to_str()?.to_owned();
        Some(first.strip_suffix(".rs").unwrap_or(&first).to_owned())
    };
    let modules: BTreeSet<String> = files.iter().filter_map(module_of).collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|f| !f.is_test()) {
        let Some(from) = module_of(file) else { continue };
        let edges = graph.entry(from.clone()).or_default();
        for target in crate_paths(file.production()) {
            if target != from && modules.contains(&target) {
                edges.insert(target);
            }
        }
    }
    graph
}

/// The first segment of each `crate::…` path, also inside `use crate::{a, b::c}`.
fn crate_paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line_or_group in text
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
        .split("crate::")
        .skip(1)
    {
        if let Some(group) = line_or_group.strip_prefix('{') {
            let mut level = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => level += 1,
                    '}' if level == 0 => break,
                    '}' => level -= 1,
                    ',' | ':' if level == 0 && !word.trim().is_empty() => {
                        found.push(std::mem::take(&mut word).trim().to_owned());
                        if c == ':' {
                            level = 100;
                        }
                    }
                    ',' if level >= 100 => level = 0,
                    _ if level == 0 => word.push(c),
                    _ => {}
                }
            }
            if !word.trim().is_empty() {
                found.push(word.trim().to_owned());
            }
        } else {
            found.push(line_or_group.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

/// A cycle in the graph, as the modules along it.
pub fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|p| p == node) {
            return Some(path[at..].to_vec());
        }
        if done.contains(node) {
            return None;
        }
        path.push(node.to_owned());
        for next in graph.get(node).into_iter().flatten() {
            if let Some(found) = visit(next, graph, path, done) {
                return Some(found);
            }
        }
        path.pop();
        done.insert(node.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}
