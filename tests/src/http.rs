//! A small blocking HTTP/1.1 client that hides nothing: raw bytes out, what came back, and whether it came whole.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// False when the connection ended before the body did.
    pub complete: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> std::io::Result<Connection> {
        Connection::over(TcpStream::connect_timeout(&address, TIMEOUT)?)
    }

    pub fn over(stream: TcpStream) -> std::io::Result<Connection> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one response. Fails when there is none.
    pub fn receive(&mut self) -> std::io::Result<Response> {
        let broken = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned());
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status: u16 = status.ok_or_else(|| broken(&format!("no status line: `{status_line}`")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new(), complete: true };
        if status == 204 || status == 304 || status < 200 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            response.complete = self.chunks(&mut response.body).is_ok();
        } else if let Some(length) = response.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
            let mut limited = (&mut self.stream).take(length as u64);
            let read = limited.read_to_end(&mut response.body);
            response.complete = read.is_ok() && response.body.len() == length;
        } else {
            response.complete = self.stream.read_to_end(&mut response.body).is_ok();
        }
        Ok(response)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
            let mut chunk = vec![0; size];
            self.stream.read_exact(&mut chunk)?;
            body.extend(chunk);
            if self.line()?.is_empty() && size == 0 {
                return Ok(());
            }
        }
    }

    /// Reads until the other side closes or resets; true for a clean end.
    pub fn rest(&mut self, into: &mut Vec<u8>) -> bool {
        self.stream.read_to_end(into).is_ok()
    }

    pub fn set_read_timeout(&self, limit: Duration) {
        self.stream.get_ref().set_read_timeout(Some(limit)).expect("a timeout above zero");
    }
}

/// One request with the given extra header lines, on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut connection = Connection::open(address)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        head += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    head += "\r\n";
    connection.send([head.as_bytes(), body].concat())?;
    connection.receive()
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Response> {
    request(address, "GET", path, &[], &[])
}

/// `GET`, for tests that expect an answer.
#[track_caller]
pub fn must_get(address: SocketAddr, path: &str) -> Response {
    get(address, path).unwrap_or_else(|e| panic!("GET http://{address}{path}: {e}"))
}
