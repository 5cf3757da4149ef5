//! TLS over a socket: rustls speaks the protocol on buffers that this module lends it.
//!
//! It reads records into a buffer that is given back while nothing waits in it, so that an idle connection holds none, and gathers
//! what is written into one record where it is small. It knows nothing of contexts and certificates: which configuration, and
//! what of the peer, is `crate::tls`'s business. Invariant: what rustls has encoded goes to the socket in order, each byte
//! once; bytes taken from a writer are encoded at once and never given back.
mod outgoing;

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::{Accepted, Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::Socket;
use outgoing::{Outgoing, Short};

/// The largest record on the wire (RFC 8446 5.2), and what is read at once.
const RECORD_BYTES: usize = 5 + 16 * 1024 + 256;
/// The plaintext of one record.
const FRAGMENT_BYTES: usize = 16 * 1024;
/// What encryption adds to a record at most, generously.
const OVERHEAD_BYTES: usize = 64;
/// A handshake message may span records; rustls takes 64 KiB of it at most.
const MAX_INCOMING_BYTES: usize = 64 * 1024 + RECORD_BYTES;
/// Taken from a writer at once.
const WRITE_BYTES: usize = 4 * FRAGMENT_BYTES;

/// One end of a TLS connection whose handshake is over.
pub struct Tls {
    socket: Socket,
    session: Session,
    /// From the socket; `fresh`: there may be a whole record in it.
    incoming: BytesMut,
    fresh: bool,
    outgoing: Outgoing,
    /// Decrypted, for a reader that had no room.
    plain: BytesMut,
    /// The peer has said that it sends no more.
    closed: bool,
    /// The socket has ended.
    ended: bool,
    /// We have said that we send no more.
    finished: bool,
    /// rustls has refused something and must not be asked again.
    failed: bool,
}

enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// A connection of which the ClientHello has been read.
pub struct Greeted {
    socket: Socket,
    incoming: BytesMut,
    accepted: Accepted,
}

/// What is wanted of rustls when it lets traffic be written.
#[derive(Clone, Copy)]
enum Want<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    CloseNotify,
}

/// What came of one step.
enum Step {
    Done,
    Progress,
    /// Nothing more without bytes from the peer.
    Starved,
    Closed,
}

/// Where a step puts what it makes.
struct Sinks<'a, 'b> {
    outgoing: &'a mut Outgoing,
    plain: &'a mut BytesMut,
    reader: Option<&'a mut ReadBuf<'b>>,
}

impl Greeted {
    /// Reads the ClientHello. After an error the alert has been sent.
    ///
    /// # Errors
    /// Of the socket; [`rustls::Error`] inside [`io::ErrorKind::InvalidData`] where it is no ClientHello.
    pub async fn read(mut socket: Socket) -> io::Result<Self> {
        let mut acceptor = Acceptor::default();
        let mut incoming = BytesMut::new();
        loop {
            let from = incoming.len();
            incoming.reserve(RECORD_BYTES);
            if socket.read_buf(&mut incoming).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
            }
            let mut unseen = &incoming[from..];
            while !unseen.is_empty() {
                acceptor.read_tls(&mut unseen)?;
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Ok(Greeted { socket, incoming, accepted }),
                    Ok(None) => {}
                    Err((error, mut alert)) => {
                        let mut bytes = Vec::new();
                        alert.write_all(&mut bytes)?;
                        // The error that led here is the one to tell.
                        let _unsent = socket.write_all(&bytes).await;
                        let _unsent = socket.flush().await;
                        return Err(invalid(error));
                    }
                }
            }
        }
    }

    pub fn hello(&self) -> rustls::server::ClientHello<'_> {
        self.accepted.client_hello()
    }

    /// The rest of the handshake. After an error the alert has been sent.
    ///
    /// # Errors
    /// As [`Greeted::read`].
    pub async fn accept(self, config: Arc<ServerConfig>) -> io::Result<Tls> {
        let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Tls::new(self.socket, Session::Server(Box::new(session)), self.incoming).handshake().await
    }
}

impl Tls {
    /// The handshake of a client. After an error the alert has been sent.
    ///
    /// # Errors
    /// Of the socket; [`rustls::Error`] inside [`io::ErrorKind::InvalidData`] where the peers do not agree.
    pub async fn connect(socket: Socket, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Tls::new(socket, Session::Client(Box::new(session)), BytesMut::new()).handshake().await
    }

    fn new(socket: Socket, session: Session, incoming: BytesMut) -> Self {
        let (outgoing, plain) = (Outgoing::default(), BytesMut::new());
        let (closed, ended, finished, failed) = (false, false, false, false);
        Tls { socket, session, incoming, fresh: true, outgoing, plain, closed, ended, finished, failed }
    }

    async fn handshake(mut self) -> io::Result<Self> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await?;
        Ok(self)
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What was negotiated.
    pub fn session(&self) -> &CommonState {
        match &self.session {
            Session::Server(session) => session,
            Session::Client(session) => session,
        }
    }

    /// See [`super::Io::poll_readable`].
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.plain.is_empty() || self.fresh || self.closed || self.ended || self.failed {
            return Poll::Ready(Ok(()));
        }
        let ready = self.socket.poll_read_ready(cx);
        if ready.is_pending() {
            self.give_back();
        }
        ready
    }

    /// Keeps no memory for what is not there.
    fn give_back(&mut self) {
        for buffer in [&mut self.incoming, &mut self.plain] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                *buffer = BytesMut::new();
            }
        }
        if self.outgoing.waits().is_empty() {
            self.outgoing = Outgoing::default();
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let starved = loop {
                match self.step_or_say_why(cx, None, Want::Nothing)? {
                    Step::Progress => {}
                    Step::Starved => break true,
                    Step::Done | Step::Closed => break false,
                }
            };
            ready!(self.poll_drain(cx))?;
            if !self.session().is_handshaking() {
                return Pin::new(&mut self.socket).poll_flush(cx);
            }
            if !starved || self.ended {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")));
            }
            // The peer may wait for what we have just said.
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Takes in what the socket has; at its end `ended` is set.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.incoming.len() >= MAX_INCOMING_BYTES {
            let reason = format!("a TLS message of more than {MAX_INCOMING_BYTES} bytes");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        if self.incoming.is_empty() {
            // Without a buffer until there is something to put into it.
            ready!(self.poll_readable(cx))?;
        }
        if self.incoming.capacity() - self.incoming.len() < RECORD_BYTES / 4 {
            self.incoming.reserve(RECORD_BYTES);
        }
        let n = ready!(pin!(self.socket.read_buf(&mut self.incoming)).poll(cx))?;
        self.ended = n == 0;
        self.fresh = n > 0;
        Poll::Ready(Ok(()))
    }

    /// Lets rustls go one step on.
    fn step(&mut self, reader: Option<&mut ReadBuf<'_>>, want: Want<'_>) -> io::Result<Step> {
        let sinks = Sinks { outgoing: &mut self.outgoing, plain: &mut self.plain, reader };
        let (discard, outcome) = match &mut self.session {
            Session::Server(s) => step(s.process_tls_records(&mut self.incoming), sinks, want),
            Session::Client(s) => step(s.process_tls_records(&mut self.incoming), sinks, want),
        };
        self.incoming.advance(discard);
        self.fresh &= matches!(outcome, Ok(Step::Progress | Step::Done));
        self.closed |= matches!(outcome, Ok(Step::Closed));
        outcome
    }

    /// The same; after an error the alert about it is sent, as far as that goes at once.
    fn step_or_say_why(
        &mut self,
        cx: &mut Context<'_>,
        reader: Option<&mut ReadBuf<'_>>,
        want: Want<'_>,
    ) -> io::Result<Step> {
        if self.failed {
            return Err(failed_before());
        }
        let outcome = self.step(reader, want);
        if outcome.is_err() {
            self.failed = true;
            // While something waits to be encoded rustls does not look at the records that it has refused.
            while self.session().wants_write() && self.step(None, Want::Nothing).is_ok() {}
            self.poll_send_on(cx);
        }
        outcome
    }

    /// Sends what is encoded, as far as that goes at once: an answer of rustls' own does not wait for the next write. That it
    /// cannot be sent is told to the next writer, not to a reader: the peer may have answered before it stopped reading.
    fn poll_send_on(&mut self, cx: &mut Context<'_>) {
        if !self.outgoing.waits().is_empty() && matches!(self.poll_drain(cx), Poll::Ready(Ok(()))) {
            let _told_to_a_writer = Pin::new(&mut self.socket).poll_flush(cx);
        }
    }

    /// Writes what is encoded.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.waits().is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.waits()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outgoing.written(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encodes what is wanted; answers of rustls' own (a key update) go before it.
    fn encode(&mut self, cx: &mut Context<'_>, want: Want<'_>) -> io::Result<()> {
        loop {
            match self.step_or_say_why(cx, None, want)? {
                Step::Done => return Ok(()),
                Step::Progress | Step::Closed => {}
                Step::Starved => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if !this.plain.is_empty() {
                let n = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.plain[..n]);
                this.plain.advance(n);
            }
            while this.fresh && buf.remaining() > 0 && this.plain.is_empty() {
                this.step_or_say_why(cx, Some(buf), Want::Nothing)?;
            }
            this.poll_send_on(cx);
            if buf.filled().len() > before || buf.remaining() == 0 || this.closed {
                return Poll::Ready(Ok(()));
            }
            if this.failed {
                return Poll::Ready(Err(failed_before()));
            }
            if this.ended {
                let reason = "peer closed connection without sending TLS close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
            }
            ready!(this.poll_fill(cx))?;
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        let taken = &buf[..buf.len().min(WRITE_BYTES)];
        if taken.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.encode(cx, Want::Encrypt(taken))?;
        // What does not go now goes with the next write or flush.
        let _rest = this.poll_drain(cx)?;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().position(|b| !b.is_empty()).unwrap_or(0);
        let rest = bufs.get(first..).unwrap_or_default();
        // Small pieces share a record; a large one goes by itself.
        match rest {
            [] => Poll::Ready(Ok(0)),
            [one] => self.poll_write(cx, one),
            [one, ..] if one.len() >= FRAGMENT_BYTES => self.poll_write(cx, one),
            several => {
                let mut gathered =
                    Vec::with_capacity(several.iter().map(|b| b.len()).sum::<usize>().min(FRAGMENT_BYTES));
                for piece in several {
                    let room = FRAGMENT_BYTES - gathered.len();
                    gathered.extend_from_slice(&piece[..piece.len().min(room)]);
                }
                self.poll_write(cx, &gathered)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished && !self.failed {
            self.encode(cx, Want::CloseNotify)?;
        }
        self.finished = true;
        ready!(self.poll_drain(cx))?;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            // The peer has gone already.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

/// Does what the state of the connection asks for. Returns how many bytes of the incoming ones are used up.
fn step<D>(status: UnbufferedStatus<'_, '_, D>, sinks: Sinks<'_, '_>, want: Want<'_>) -> (usize, io::Result<Step>) {
    let UnbufferedStatus { mut discard, state } = status;
    let outcome = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut reader = sinks.reader;
            loop {
                match traffic.next_record() {
                    None => break Ok(Step::Progress),
                    Some(Err(error)) => break Err(invalid(error)),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        let room = reader.as_ref().map_or(0, |r| r.remaining()).min(record.payload.len());
                        let (fits, rest) = record.payload.split_at(if sinks.plain.is_empty() { room } else { 0 });
                        if let Some(reader) = &mut reader {
                            reader.put_slice(fits);
                        }
                        sinks.plain.extend_from_slice(rest);
                    }
                }
            }
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let encode = |room: &mut [u8]| match data.encode(room) {
                Ok(n) => Ok(n),
                Err(EncodeError::InsufficientSize(e)) => Err(Short::Room(e.required_size)),
                Err(EncodeError::AlreadyEncoded) => Ok(0),
            };
            sinks.outgoing.append(0, encode).map(|()| Step::Progress)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in `outgoing`, and goes from there.
            data.done();
            Ok(Step::Progress)
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic, sinks.outgoing, want),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Starved),
        Ok(ConnectionState::PeerClosed) => Ok(Step::Closed),
        // Both have said that they send no more.
        Ok(ConnectionState::Closed) => Ok(Step::Starved),
        // Early data is never offered, and states to come are none that are known.
        Ok(_) => Err(io::Error::other("an unexpected state of TLS")),
        Err(error) => Err(invalid(error)),
    };
    (discard, outcome)
}

fn write<D>(mut traffic: WriteTraffic<'_, D>, outgoing: &mut Outgoing, want: Want<'_>) -> io::Result<Step> {
    let short = |error: EncryptError| match error {
        EncryptError::InsufficientSize(e) => Short::Room(e.required_size),
        EncryptError::EncryptExhausted => Short::Of("keys: too much was sent over this TLS connection"),
    };
    match want {
        Want::Nothing => return Ok(Step::Starved),
        Want::Encrypt(bytes) => {
            let room = bytes.len() + (bytes.len() / FRAGMENT_BYTES + 1) * OVERHEAD_BYTES;
            outgoing.append(room, |room| traffic.encrypt(bytes, room).map_err(short))?;
        }
        Want::CloseNotify => outgoing.append(OVERHEAD_BYTES, |room| traffic.queue_close_notify(room).map_err(short))?,
    }
    Ok(Step::Done)
}

fn failed_before() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the TLS connection has failed before")
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
