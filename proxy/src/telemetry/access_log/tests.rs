use std::time::Duration;

use super::*;

#[test]
fn the_writer_appends_and_reopens_after_rotation() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("a.log");
    let writer = Writer::start().expect("writer");
    let target = Target::File(path.clone());
    assert!(writer.write(target.clone(), b"one\n".to_vec()));
    writer.drain(Duration::from_secs(5));
    std::fs::rename(&path, dir.path().join("a.log.1")).expect("rename");
    writer.reopen();
    assert!(writer.write(target, b"two\n".to_vec()));
    writer.drain(Duration::from_secs(5));
    assert_eq!(std::fs::read_to_string(dir.path().join("a.log.1")).expect("old"), "one\n");
    assert_eq!(std::fs::read_to_string(&path).expect("new"), "two\n");
}
