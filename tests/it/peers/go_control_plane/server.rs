//! The management server of `tests/peers/go-control-plane`, driven over its standard input.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

pub struct Server {
    child: Child,
    say: ChildStdin,
    hear: Lines<BufReader<ChildStdout>>,
}

impl Server {
    pub fn start(program: &Path, at: SocketAddr, identity: (&Path, &Path), aggregated: bool) -> Server {
        let mut command = Command::new(program);
        command.args(["-listen", &at.to_string(), &format!("-ads={aggregated}")]);
        command.arg("-cert").arg(identity.0).arg("-key").arg(identity.1);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let say = child.stdin.take().expect("standard input");
        let hear = BufReader::new(child.stdout.take().expect("standard output")).lines();
        Server { child, say, hear }
    }

    fn call(&mut self, line: &Value) -> Value {
        writeln!(self.say, "{line}").expect("it listens");
        let answer = self.hear.next().expect("it answers").expect("text");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Replaces the snapshot.
    pub fn set(&mut self, version: &str, resources: &Value, ttl_ms: u32) {
        let answer = self.call(&json!({"version": version, "resources": resources, "ttl_ms": ttl_ms}));
        assert_eq!(answer["ok"], true, "{answer}");
    }

    /// What the client has done.
    pub fn report(&mut self) -> Value {
        self.call(&json!({"report": true}))
    }

    pub fn stop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
