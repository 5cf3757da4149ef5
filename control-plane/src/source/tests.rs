use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("sidemesh-store-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("temporary directory");
        Dir(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store.redb")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn put(key: &str, n: u64, expect: Expect) -> Write {
    Write { key: key.into(), body: Some(json!({ "metadata": {}, "n": n })), expect, history: true }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write { key: key.into(), body: None, expect, history: true }
}

#[test]
fn every_write_has_the_next_revision_and_survives_reopening() {
    let dir = Dir::new("revisions");
    {
        let store = Store::open(&dir.file()).expect("open");
        assert_eq!(store.commit(vec![put("Service/a/x", 1, Expect::Absent)], "ada").expect("write").revision, 1);
        let two = vec![put("Service/a/y", 1, Expect::Any), put("Service/b/z", 1, Expect::Any)];
        assert_eq!(store.commit(two, "ada").expect("write").revision, 2);
    }
    let store = Store::open(&dir.file()).expect("open again");
    assert_eq!(store.revision(), 2);
    let found = store.get("Service/a/x").expect("read").expect("there");
    assert_eq!((found.revision, found.body["metadata"]["resourceVersion"].as_str()), (1, Some("1")));
    let keys: Vec<String> = store.list("Service/a/").expect("list").0.into_iter().map(|o| o.key).collect();
    assert_eq!(keys, ["Service/a/x", "Service/a/y"]);
}

#[test]
fn writes_check_what_they_expect_and_are_all_or_nothing() {
    let dir = Dir::new("expect");
    let store = Store::open(&dir.file()).expect("open");
    store.commit(vec![put("k", 1, Expect::Absent)], "ada").expect("write");
    let error = |writes| store.commit(writes, "bob").expect_err("refused").to_string();
    assert!(error(vec![put("k", 2, Expect::Absent)]).contains("already exists at revision 1"));
    assert!(error(vec![put("k", 2, Expect::Revision(7))]).contains("now at revision 1, expected 7"));
    assert!(error(vec![delete("none", Expect::Any)]).contains("does not exist"));
    assert!(error(vec![put("other", 1, Expect::Any), put("k", 2, Expect::Absent)]).contains("already exists"));
    assert_eq!(store.get("other").expect("read"), None);
    assert_eq!(store.revision(), 1);
    store.commit(vec![put("k", 2, Expect::Revision(1))], "bob").expect("the right revision");
}

#[test]
fn history_keeps_the_last_versions_newest_first_beyond_deletion() {
    let dir = Dir::new("history");
    let store = Store::open(&dir.file()).expect("open");
    for n in 0..40 {
        store.commit(vec![put("k", n, Expect::Any)], "ada").expect("write");
    }
    store.commit(vec![delete("k", Expect::Exists)], "bob").expect("delete");
    let history = store.history("k").expect("history");
    assert_eq!(history.len(), HISTORY_LIMIT);
    assert_eq!((history[0].revision, history[0].actor.as_str(), &history[0].body), (41, "bob", &None));
    assert_eq!(history[1].body.as_ref().map(|b| b["n"].clone()), Some(json!(39)));
}

#[test]
fn watchers_resume_without_a_gap_or_learn_that_they_cannot() {
    let dir = Dir::new("watch");
    let store = Store::open(&dir.file()).expect("open");
    store.commit(vec![put("a", 1, Expect::Any)], "ada").expect("write");
    store.commit(vec![put("b", 1, Expect::Any)], "ada").expect("write");
    let (missed, mut live) = store.watch(1).expect("watch");
    store.commit(vec![delete("a", Expect::Any)], "ada").expect("delete");
    assert_eq!(missed.iter().map(|c| c.revision).collect::<Vec<_>>(), [2]);
    let commit = live.try_recv().expect("announced");
    assert_eq!((commit.revision, commit.changes[0].now.is_none(), commit.changes[0].before.is_some()), (3, true, true));
    drop(store);
    let store = Store::open(&dir.file()).expect("open again");
    assert!(matches!(store.watch(1), Err(StoreError::Compacted { from: 1, oldest: 3 })));
}

#[test]
fn tokens_are_used_once_and_bound_to_one_node() {
    let dir = Dir::new("tokens");
    let store = Store::open(&dir.file()).expect("open");
    assert!(store.use_token("t1", 100, 50).expect("first"));
    assert!(!store.use_token("t1", 100, 60).expect("second"));
    assert!(store.bind_token("t2", "envoy-1", 100).expect("first"));
    assert!(store.bind_token("t2", "envoy-1", 100).expect("same node"));
    assert!(!store.bind_token("t2", "envoy-2", 100).expect("other node"));
    assert!(!store.bind_token("t1", "envoy-1", 100).expect("used to join"));
}

#[test]
fn a_second_process_is_told_that_the_store_is_taken() {
    let dir = Dir::new("lock");
    let _store = Store::open(&dir.file()).expect("open");
    assert!(matches!(Store::open(&dir.file()), Err(StoreError::Locked { .. })));
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_was() {
    let dir = Dir::new("corrupt");
    {
        let store = Store::open(&dir.file()).expect("open");
        for n in 0..50 {
            store.commit(vec![put(&format!("k{n}"), n, Expect::Any)], "ada").expect("write");
        }
    }
    let good = std::fs::read(dir.file()).expect("read");
    let mut cases = vec![b"this is not a store at all, only text".repeat(200), good[..good.len() / 3].to_vec()];
    let mut scrambled = good.clone();
    for byte in scrambled.iter_mut().skip(4096).step_by(7) {
        *byte ^= 0x5a;
    }
    cases.push(scrambled);
    for damaged in cases {
        std::fs::write(dir.file(), &damaged).expect("write");
        let error = Store::open(&dir.file()).map(drop).expect_err("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("left as it is"), "{error}");
        assert_eq!(std::fs::read(dir.file()).expect("read"), damaged, "the file was touched");
    }
    std::fs::write(dir.file(), &good).expect("write");
    assert_eq!(Store::open(&dir.file()).expect("the good one opens").revision(), 50);
}

/// Run by the tests below in a process of its own.
#[test]
#[ignore = "a child of the tests that kill it"]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("SIDEMESH_TEST_STORE") else { return };
    let store = Store::open(&PathBuf::from(path)).expect("open");
    for n in 0..100_000u64 {
        let big = json!({ "metadata": {}, "n": n, "filler": "x".repeat(2000) });
        let write = Write { key: format!("k{}", n % 50), body: Some(big), expect: Expect::Any, history: true };
        match store.commit(vec![write], "child") {
            // To stderr, which the test harness does not buffer for `--nocapture`.
            Ok(commit) => eprintln!("acknowledged {} {n}", commit.revision),
            Err(e) => {
                eprintln!("failed {e}");
                // Reads go on, and so do writes as soon as there is space.
                let read = store.list("").map(|list| list.0.len());
                store.commit(vec![delete("k0", Expect::Any), delete("k1", Expect::Any)], "child").ok();
                let write = store.commit(vec![put("small", n, Expect::Any)], "child").map(|c| c.revision);
                eprintln!("then read {read:?} write {write:?}");
                return;
            }
        }
    }
}

const CHILD: [&str; 4] = ["--exact", "source::tests::child_writes_until_it_is_killed", "--ignored", "--nocapture"];

fn acknowledged(line: &str) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix("acknowledged ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[test]
fn sigkill_loses_nothing_that_was_acknowledged() {
    let dir = Dir::new("kill");
    let program = std::env::current_exe().expect("this program");
    let mut expected = 0;
    for round in 0..4u64 {
        let mut child = Command::new(&program)
            .args(CHILD)
            .env("SIDEMESH_TEST_STORE", dir.file())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("child");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let mut last = None;
        for line in lines.by_ref().map_while(Result::ok) {
            last = acknowledged(&line).or(last);
            if last.is_some_and(|(_, n)| n >= 20 + 13 * round) {
                child.kill().expect("SIGKILL");
                break;
            }
        }
        // What it said before it died.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        last = rest.iter().filter_map(|l| acknowledged(l)).next_back().or(last);
        child.wait().expect("ended");
        let (revision, n) = last.expect("some writes");
        assert!(revision > expected);

        let store = Store::open(&dir.file()).expect("opens after a crash");
        // One more may have reached the disk without being told.
        assert!((revision..=revision + 1).contains(&store.revision()), "{} of {revision}", store.revision());
        let kept = store.get(&format!("k{}", n % 50)).expect("read").expect("there");
        assert!(kept.body["n"].as_u64() >= Some(n));
        expected = store.revision();
    }
}

#[test]
fn a_full_disk_is_named_and_the_store_opens_again() {
    let dir = Dir::new("full");
    drop(Store::open(&dir.file()).expect("open"));
    let program = std::env::current_exe().expect("this program");
    // A limit on the file's size stands in for a small disk.
    let script = format!("trap '' XFSZ; ulimit -f 4096; exec '{}' {}", program.display(), CHILD.join(" "));
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("SIDEMESH_TEST_STORE", dir.file())
        .stdin(Stdio::null())
        .output()
        .expect("child");
    let said = String::from_utf8_lossy(&output.stderr);
    let failure = said.lines().find(|l| l.starts_with("failed ")).unwrap_or_else(|| panic!("no failure in: {said}"));
    assert!(failure.contains("no space left on the disk; nothing was written"), "{failure}");
    let then = said.lines().find(|l| l.starts_with("then ")).unwrap_or_default();
    assert!(then.contains("read Ok(50) write Ok("), "{then}");
    let (revision, _) = said.lines().filter_map(acknowledged).next_back().expect("some writes");
    let store = Store::open(&dir.file()).expect("opens again");
    assert!(store.revision() >= revision, "{then}");
}
