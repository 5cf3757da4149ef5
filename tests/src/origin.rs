//! An upstream server whose every answer is written by the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request as it arrived.
#[derive(Debug)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A server with a thread for each connection; stops accepting when dropped.
pub struct Origin {
    pub address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Origin {
    /// `answer` writes the response; false ends the connection.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(crate::ports::free()).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, answer) = (stopped.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), answer) = (stream, answer.clone()) else { continue };
                std::thread::spawn(move || serve(stream, &*answer));
            }
        });
        Origin { address, stopped }
    }

    /// Answers everything with 200 and `body`.
    pub fn saying(body: &'static str) -> Origin {
        Origin::start(move |_, stream| ok(stream, body))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _last = TcpStream::connect(self.address);
    }
}

/// Writes a plain answer.
pub fn ok(stream: &mut TcpStream, body: &str) -> bool {
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).is_ok()
}

fn serve(stream: TcpStream, answer: &(impl Fn(&Request, &mut TcpStream) -> bool + ?Sized)) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        if !answer(&request, &mut writer) {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = || {
        let mut text = String::new();
        let n = reader.read_line(&mut text).ok()?;
        (n > 0).then(|| text.trim_end().to_owned())
    };
    let mut request = Request { line: line()?, headers: Vec::new(), body: Vec::new() };
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(':') else { break };
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
