//! Counting instructions: this program under callgrind.

use std::process::Command;
use std::sync::Mutex;

use super::Case;

/// Whether valgrind is installed.
pub fn is_there() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Says what was not run and why; an error where nothing may be left out (`SIDEMESH_REQUIRE_ALL=1`).
pub fn not_run(what: &str) -> Result<(), String> {
    let text = format!("NOT RUN: {what}: valgrind is missing; install it with `apt-get install valgrind`");
    if std::env::var_os("SIDEMESH_REQUIRE_ALL").is_some_and(|v| v == "1") {
        return Err(text);
    }
    println!("{text}");
    Ok(())
}

/// Instructions of one operation of each case, in the order of the cases. Two cases run at a time.
pub fn all(cases: &[Case]) -> Result<Vec<(&'static str, u64)>, String> {
    let next = Mutex::new(0);
    let counts = Mutex::new(Vec::new());
    let work = || -> Result<(), String> {
        loop {
            let at = {
                let mut next = next.lock().map_err(|_| "a count has failed")?;
                *next += 1;
                *next - 1
            };
            let Some(case) = cases.get(at) else { return Ok(()) };
            let count = one(case)?;
            counts.lock().map_err(|_| "a count has failed")?.push((case.name, count));
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a count has failed".to_owned())?)
    })?;
    let mut counts = counts.into_inner().map_err(|_| "a count has failed")?;
    counts.sort_unstable();
    Ok(counts)
}

fn one(case: &Case) -> Result<u64, String> {
    let short = instructions(case.name, case.operations)?;
    let long = instructions(case.name, 2 * case.operations)?;
    let each = long.saturating_sub(short) / u64::from(case.operations);
    if each == 0 {
        return Err(format!("{}: one operation costs nothing: the compiler has removed it", case.name));
    }
    Ok(each)
}

/// Instructions of a run with so many operations, start-up included.
fn instructions(case: &str, operations: u32) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program has no path: {e}"))?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.args(["case", case, &operations.to_string()]);
    // The environment is on the stack, and so decides how things are aligned.
    command.env_clear();
    let output = command.output().map_err(|e| format!("valgrind does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("{case} under callgrind: {}\n{text}", output.status)),
    }
}
