//! SETTINGS (RFC 9113, section 6.5): what we tell, and what the peer tells us.
use super::{CONTROL, PLAIN, Role, Session};
use crate::codec::h2::flood::Fault;
use crate::codec::h2::frame::{self, Header, MAX_31_BITS, MAX_PAYLOAD, flag, setting};
use crate::codec::h2::hpack::DEFAULT_TABLE_BYTES;
use crate::codec::h2::reason::Reason;

/// Every window until something else is agreed on.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
/// Streams to open before the peer has said how many it allows: what RFC 9113, section 6.5.2 tells it to allow at least.
const INITIAL_STREAMS: u32 = 100;

/// What the peer has told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) initial_window: u32,
    pub(super) max_streams: u32,
    pub(super) takes_connect: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self { initial_window: DEFAULT_WINDOW, max_streams: INITIAL_STREAMS, takes_connect: false }
    }
}

impl Session {
    /// The first output of either end.
    pub(super) fn greet(&mut self) {
        let ours = self.settings;
        let mut all = [(0u16, 0u32); 6];
        let mut count = 0;
        let mut tell = |name, value| {
            all[count] = (name, value);
            count += 1;
        };
        if ours.hpack_table_size != DEFAULT_TABLE_BYTES {
            tell(setting::HEADER_TABLE_SIZE, ours.hpack_table_size);
        }
        if self.role == Role::Client {
            tell(setting::ENABLE_PUSH, 0);
        }
        tell(setting::MAX_CONCURRENT_STREAMS, ours.max_concurrent_streams);
        tell(setting::INITIAL_WINDOW_SIZE, ours.initial_stream_window);
        tell(setting::MAX_HEADER_LIST_SIZE, ours.max_head_bytes);
        if self.role == Role::Server && ours.allow_connect {
            tell(setting::ENABLE_CONNECT_PROTOCOL, 1);
        }
        let more = ours.initial_connection_window.saturating_sub(DEFAULT_WINDOW);
        let client = self.role == Role::Client;
        // A larger table may be used as soon as the peer knows; a smaller one has to be used once it has said so.
        self.decoder.set_limit(ours.hpack_table_size.max(DEFAULT_TABLE_BYTES));
        self.put(PLAIN, |out| {
            if client {
                out.extend_from_slice(frame::PREFACE);
            }
            frame::put_settings(&all[..count], out);
            if more > 0 {
                frame::put_window_update(0, more, out);
            }
        });
    }

    pub(super) fn receive_settings(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("SETTINGS on a stream"));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload"));
            }
            self.decoder.set_limit(self.settings.hpack_table_size);
            return Ok(());
        }
        let all = frame::settings(payload).map_err(|error| Fault::new(error.0, "length of SETTINGS"))?;
        let first = !std::mem::replace(&mut self.peer_told, true);
        if first {
            // From here on no limit is one, unless the peer names it.
            self.peer.max_streams = u32::MAX;
        }
        for (name, value) in all {
            self.apply(name, value)?;
        }
        self.put(CONTROL, frame::put_settings_ack);
        self.wake_openers();
        Ok(())
    }

    fn apply(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            setting::HEADER_TABLE_SIZE => self.encoder.set_limit(value),
            setting::ENABLE_PUSH if value > 1 => return Err(Fault::protocol("SETTINGS_ENABLE_PUSH")),
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => self.apply_window(value)?,
            setting::MAX_FRAME_SIZE if !(MAX_PAYLOAD..1 << 24).contains(&(value as usize)) => {
                return Err(Fault::protocol("SETTINGS_MAX_FRAME_SIZE"));
            }
            setting::ENABLE_CONNECT_PROTOCOL => match value {
                0 | 1 => self.peer.takes_connect = value == 1,
                _ => return Err(Fault::protocol("SETTINGS_ENABLE_CONNECT_PROTOCOL")),
            },
            // Our frames are never larger than the smallest limit there is. MAX_HEADER_LIST_SIZE is advice.
            _ => {}
        }
        Ok(())
    }

    /// A new initial window changes those of the streams there are by as much (section 6.9.2).
    fn apply_window(&mut self, value: u32) -> Result<(), Fault> {
        let fault = Fault::new(Reason::FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE");
        if value > MAX_31_BITS {
            return Err(fault);
        }
        let change = i64::from(value) - i64::from(self.peer.initial_window);
        self.peer.initial_window = value;
        for key in self.streams.open_keys() {
            let stream = self.streams.get(key);
            stream.send_window += change;
            if stream.send_window > i64::from(MAX_31_BITS) {
                return Err(fault);
            }
            if change > 0 {
                stream.wake_writer();
            }
        }
        Ok(())
    }
}
