//! The structure of the source is a promise like any other: sizes, layers, no circles.

use std::collections::HashSet;
use std::path::Path;

use sidemesh_tests::source::{cycle, long_functions, module_graph, rust_files};

const CRATES: [&str; 6] =
    ["proto/src", "proxy/config/src", "proxy/src", "control-plane/src", "examples/src", "benches/src"];
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

#[test]
fn files_are_short() {
    let long: Vec<String> = CRATES
        .iter()
        .flat_map(|c| rust_files(c))
        .filter(|f| !f.is_test() && f.production().lines().count() > FILE_LINES)
        .map(|f| format!("{}: {} lines", f.path.display(), f.production().lines().count()))
        .collect();
    assert!(long.is_empty(), "files over {FILE_LINES} lines; split them by content:\n{}", long.join("\n"));
}

#[test]
fn functions_are_short() {
    let long: Vec<String> = CRATES
        .iter()
        .flat_map(|c| rust_files(c))
        .filter(|f| !f.is_test())
        .flat_map(|f| long_functions(&f, FUNCTION_LINES))
        .collect();
    assert!(long.is_empty(), "functions over {FUNCTION_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn no_modules_form_a_circle() {
    for src in CRATES {
        let graph = module_graph(src);
        assert_eq!(cycle(&graph), None, "modules of {src} import each other in a circle");
    }
}

/// Layers of the proxy from the top; a module imports only from layers below its own. What is not listed is a foundation.
const LAYERS: [&[&str]; 6] =
    [&["main", "lib"], &["app"], &["admin"], &["control", "downstream"], &["http", "tcp"], &["upstream"]];

#[test]
fn imports_of_the_proxy_point_one_way() {
    let layer = |module: &str| LAYERS.iter().position(|names| names.contains(&module)).unwrap_or(LAYERS.len());
    let mut wrong = Vec::new();
    for (from, targets) in module_graph("proxy/src") {
        for to in targets {
            let upwards = layer(&to) < layer(&from);
            let sideways = layer(&to) == layer(&from) && layer(&from) < LAYERS.len();
            let xds_to_stage = from == "xds" && layer(&to) < LAYERS.len();
            if upwards || sideways || xds_to_stage {
                wrong.push(format!("{from} imports {to}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the rule `downstream → http | tcp → upstream → foundations`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_crates_depend_one_way() {
    let allowed: [(&str, &[&str]); 3] =
        [("proto", &[]), ("proxy/config", &["sidemesh-proto"]), ("control-plane", &["sidemesh-proto"])];
    for (package, may) in allowed {
        let manifest =
            std::fs::read_to_string(sidemesh_tests::source::root().join(package).join("Cargo.toml")).expect("manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for line in dependencies.lines().filter(|l| l.starts_with("sidemesh-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or(line);
            assert!(may.contains(&name), "{package} must not depend on {name}");
        }
    }
}

#[test]
fn unsafe_code_is_in_two_modules() {
    let read = |path: &str| std::fs::read_to_string(sidemesh_tests::source::root().join(path)).expect("source");
    for root in ["proto/src/lib.rs", "proxy/config/src/lib.rs", "control-plane/src/lib.rs", "examples/src/lib.rs"] {
        assert!(read(root).contains("#![forbid(unsafe_code)]"), "{root} lacks #![forbid(unsafe_code)]");
    }
    assert!(read("proxy/src/lib.rs").contains("#![deny(unsafe_code)]"), "proxy/src/lib.rs lacks #![deny(unsafe_code)]");
    let allowing: Vec<_> = rust_files("proxy/src")
        .into_iter()
        .filter(|f| f.production().contains("allow(unsafe_code)"))
        .map(|f| f.path.clone())
        .collect();
    let may = |path: &std::path::PathBuf| {
        ["proxy/src/app/text.rs", "proxy/src/io/ring/kernel.rs"].iter().any(|m| path.ends_with(m))
    };
    assert!(
        allowing.len() == 2 && allowing.iter().all(may),
        "unsafe code may be in app/text.rs and io/ring/kernel.rs alone: {allowing:?}"
    );
}

/// Files of the configuration that work with validated values as the proxy does: they choose routes and filter chains.
const CHOOSERS: [&str; 3] = ["route/select.rs", "route/index.rs", "listener/choose.rs"];

#[test]
fn no_validated_field_is_ignored() {
    const TYPES: &str = "proxy/config/src/resource";
    let types = rust_files(TYPES);
    let chooses = |path: &Path| CHOOSERS.iter().any(|chooser| path.ends_with(chooser));
    let readers: String = rust_files("proxy/src")
        .iter()
        .chain(types.iter().filter(|f| chooses(&f.path)))
        .filter(|f| !f.is_test())
        .map(|f| without_comments(f.production()))
        .collect();
    let accessed = accessed(&readers);
    let spelled: HashSet<&str> = readers.split(|c| !is_word(c)).collect();
    let mut ignored = Vec::new();
    for file in types.iter().filter(|f| !f.is_test() && !chooses(&f.path)) {
        for (name, of_variant) in fields(&without_comments(file.production())) {
            // A field of an enum's variant is taken out by a pattern.
            let read = if of_variant { spelled.contains(&*name) } else { accessed.contains(&*name) };
            if !read {
                ignored.push(format!("{}: {name}", file.path.display()));
            }
        }
    }
    assert!(
        ignored.is_empty(),
        "fields of {TYPES} that the proxy never reads; act on them, or refuse them in support/table.txt:\n{}",
        ignored.join("\n")
    );
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn without_comments(text: &str) -> String {
    text.lines().map(|l| l.split("//").next().unwrap_or(l).to_owned() + "\n").collect()
}

/// The public fields that a file declares, and whether each belongs to a variant of an enum.
fn fields(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut in_enum = false;
    for line in text.lines() {
        in_enum = line.starts_with("pub enum ") || (in_enum && line != "}");
        let declared = match line.strip_prefix("    pub ") {
            _ if in_enum => line,
            Some(rest) if !rest.contains("fn ") => rest,
            _ => continue,
        };
        for part in declared.split(['{', ',', '}']) {
            if let Some((name, _)) = part.trim().split_once(": ")
                && name.chars().all(is_word)
            {
                found.push((name.to_owned(), in_enum));
            }
        }
    }
    found
}

/// Words that follow a dot and are no calls.
fn accessed(text: &str) -> HashSet<&str> {
    let word = |rest: &'_ str| rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    text.split('.')
        .skip(1)
        .filter(|rest| !rest[word(rest)..].starts_with('('))
        .map(|rest| &rest[..word(rest)])
        .collect()
}
