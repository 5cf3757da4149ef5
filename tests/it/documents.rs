//! The documents say what is there: links lead somewhere, every flag is described, decisions are listed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sidemesh_tests::process::run;
use sidemesh_tests::programs::{program, repository_file};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pages_in(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository_file(dir)).expect("a directory").flatten();
    let mut pages: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    pages.sort();
    pages
}

#[test]
fn links_lead_somewhere() {
    let pages = [".", "docs", "docs/decisions"].into_iter().flat_map(pages_in);
    let mut dead = Vec::new();
    for page in pages {
        let text = read(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.contains(' ')) {
            let file = page.with_file_name(target.split('#').next().unwrap_or(target));
            if !file.exists() {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn every_flag_is_described() {
    let page = read(&repository_file("docs/operations.md"));
    for name in ["sidemesh-proxy", "sidemesh-control-plane"] {
        let mut command = Command::new(program(name));
        command.arg("--help");
        let help = run(command, Duration::from_secs(20)).stdout;
        let words = help.split_whitespace().filter(|w| w.starts_with("--"));
        let flags = words.map(|w| w.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
        let missing: Vec<&str> =
            flags.filter(|f| !matches!(*f, "--help" | "--version") && !page.contains(*f)).collect();
        assert!(missing.is_empty(), "docs/operations.md does not describe these flags of {name}: {missing:?}");
    }
}

#[test]
fn every_decision_is_listed() {
    let list = read(&repository_file("docs/decisions/README.md"));
    let name = |page: &PathBuf| page.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let pages = pages_in("docs/decisions").iter().map(name).collect::<Vec<_>>();
    let missing: Vec<&String> =
        pages.iter().filter(|p| *p != "README.md" && !list.contains(&format!("]({p})"))).collect();
    assert!(missing.is_empty(), "docs/decisions/README.md does not list: {missing:?}");
    for (i, page) in pages.iter().filter(|p| *p != "README.md").enumerate() {
        let number = format!("{:04}", i + 1);
        assert!(page.starts_with(&format!("{number}-")), "docs/decisions/{page}: the next number is {number}");
        let text = read(&repository_file(&format!("docs/decisions/{page}")));
        assert!(
            text.starts_with(&format!("# {number}: ")),
            "docs/decisions/{page}: the heading begins with its number"
        );
    }
}
