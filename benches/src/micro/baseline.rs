//! The committed counts: a text file with what they depend on in its head, then one case in each line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Worse by more than so many percent must be mended, or explained by the change that refreshes the baseline.
const TOLERANCE: f64 = 2.0;
const REFRESH: &str = "cargo run --release -p sidemesh-bench -- micro --update";

/// What counts depend on besides the source.
fn surroundings() -> Vec<(&'static str, String)> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|l| l.starts_with("flags") || l.starts_with("Features")).unwrap_or_default();
    // What valgrind passes on.
    let known = ["avx2", "bmi2", "neon"];
    let has = |flag: &&str| flags.split_whitespace().any(|f| f == *flag);
    let features: Vec<&str> = known.into_iter().filter(|f| has(f)).collect();
    vec![
        ("compiler", env!("SIDEMESH_RUSTC").to_owned()),
        ("target", env!("SIDEMESH_TARGET").to_owned()),
        ("processor", features.join(" ")),
        ("libc", said_by("getconf", "GNU_LIBC_VERSION")),
        ("valgrind", said_by("valgrind", "--version")),
    ]
}

fn said_by(program: &str, argument: &str) -> String {
    let output = std::process::Command::new(program).arg(argument).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

pub fn write(path: &Path, counts: &[(&str, u64)]) -> Result<(), String> {
    let mut text = String::from("# Instructions of one operation; see docs/performance.md. Refresh with:\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# {REFRESH}");
    for (key, value) in surroundings() {
        let _ = writeln!(text, "# {key}: {value}");
    }
    for (name, count) in counts {
        let _ = writeln!(text, "{name} {count}");
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("{} benchmarks written to {}", counts.len(), path.display());
    Ok(())
}

/// Prints the comparison; an error when something is worse, or missing.
pub fn compare(path: &Path, counts: &[(&str, u64)], whole: bool) -> Result<(), String> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("{}: {e}; make it with `{REFRESH}`", path.display()))?;
    let (head, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with('#'));
    let mut before: BTreeMap<&str, u64> =
        lines.iter().filter_map(|l| l.split_once(' ')).filter_map(|(n, c)| Some((n, c.parse().ok()?))).collect();
    let (mut bad, mut better) = (Vec::new(), false);
    for (name, count) in counts {
        let Some(old) = before.remove(name) else {
            bad.push(format!("{name} is missing from the baseline; add it with `{REFRESH}`"));
            continue;
        };
        let percent = 100.0 * (*count as f64 - old as f64) / old as f64;
        println!("{name:<40} {old:>10} {count:>10} {percent:>+7.2} %");
        if percent > TOLERANCE {
            bad.push(format!("{name} is {percent:.1} % worse: {old} instructions before, {count} now"));
        }
        better |= percent < -TOLERANCE;
    }
    if whole {
        bad.extend(before.keys().map(|name| format!("{name} is in the baseline, and is no benchmark any more")));
    }
    if better {
        println!("Some are better: hold it with `{REFRESH}`.");
    }
    if bad.is_empty() {
        return Ok(());
    }
    let list = bad.join("\n");
    let differing = differences(&head);
    if differing.is_empty() {
        return Err(format!("{list}\nMend it, or say why in the change that runs `{REFRESH}`."));
    }
    // Another compiler counts otherwise: no verdict on the source.
    println!(
        "NOT JUDGED: the baseline was made in other surroundings; refresh it with `{REFRESH}`.\n{differing}\n{list}"
    );
    Ok(())
}

/// In what this run's surroundings differ from those of the baseline, one to a line.
fn differences(head: &[&str]) -> String {
    let mut text = String::new();
    for (key, now) in surroundings() {
        let then = head.iter().find_map(|l| l.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(": "));
        if then.unwrap_or_default() != now {
            let _ = writeln!(text, "  {key}: `{}` then, `{now}` now", then.unwrap_or_default());
        }
    }
    text
}
