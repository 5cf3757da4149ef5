//! Bounds on what a peer may have us do: each of these is cheap for it to send and costs something here. The formulas are Envoy's
//! (`Http2ProtocolOptions`).
use std::time::Instant;

use sidemesh_config::resource::cluster::FloodLimits;

use super::event::Event;
use super::output::Frames;
use super::reason::Reason;

/// A reason to end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    /// For the log.
    pub(super) details: &'static str,
    /// The peer is not told: nothing more is written to one that floods, and Envoy does not answer a malformed message either.
    pub(super) silent: bool,
    /// What it is counted as.
    pub(super) event: Option<Event>,
}

impl Fault {
    pub(super) const fn new(reason: Reason, details: &'static str) -> Self {
        Self { reason, details, silent: false, event: None }
    }

    pub(super) const fn protocol(details: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, details)
    }

    pub(super) const fn message() -> Self {
        Self { silent: true, ..Self::protocol("malformed message") }
    }

    pub(super) const fn flood(details: &'static str) -> Self {
        Self { silent: true, ..Self::new(Reason::ENHANCE_YOUR_CALM, details) }
    }

    /// Envoy's response code details for the streams that end with the connection.
    pub(super) fn code_details(&self) -> &'static str {
        match self.event {
            Some(Event::EmptyFrames) => "http2.inbound_empty_frames_flood",
            Some(Event::WindowUpdates) => "codec_error:Too_many_WINDOW_UPDATE_frames",
            Some(Event::PriorityFrames) => "codec_error:Too_many_PRIORITY_frames",
            Some(Event::OutboundFrames) => "codec_error:Too_many_frames_in_the_outbound_queue.",
            Some(Event::ControlFrames) => "codec_error:Too_many_control_frames_in_the_outbound_queue.",
            _ if self.silent && self.reason == Reason::PROTOCOL_ERROR => "http2.violation.of.messaging.rule",
            _ => "codec_error:The_user_callback_function_failed",
        }
    }

    const fn counted(self, event: Event) -> Self {
        Self { event: Some(event), ..self }
    }
}

/// What the peer has done so far.
#[derive(Debug)]
pub(super) struct Tally {
    floods: FloodLimits,
    /// Streams that a request was sent on, or a response.
    opened: u64,
    data_frames: u64,
    empty: u32,
    priorities: u64,
    window_updates: u64,
    resets: u64,
    refilled: Option<Instant>,
}

impl Tally {
    pub(super) fn new(floods: FloodLimits) -> Self {
        Self {
            floods,
            opened: 0,
            data_frames: 0,
            empty: 0,
            priorities: 0,
            window_updates: 0,
            resets: floods.reset_burst,
            refilled: None,
        }
    }

    /// A stream's head was sent.
    pub(super) fn count_opened(&mut self) {
        self.opened += 1;
    }

    /// A DATA frame was sent.
    pub(super) fn count_data(&mut self) {
        self.data_frames += 1;
    }

    /// HEADERS, CONTINUATION or DATA came; `empty` if it neither holds nor ends anything.
    #[inline]
    pub(super) fn handle_payload(&mut self, empty: bool) -> Result<(), Fault> {
        if !empty {
            self.empty = 0;
            return Ok(());
        }
        self.empty += 1;
        if self.empty > self.floods.empty_frames {
            return Err(Fault::flood("too many consecutive frames with an empty payload").counted(Event::EmptyFrames));
        }
        Ok(())
    }

    pub(super) fn handle_priority(&mut self) -> Result<(), Fault> {
        self.priorities += 1;
        let most = u64::from(self.floods.priority_frames).saturating_mul(1 + self.opened);
        match self.priorities > most {
            true => Err(Fault::flood("too many PRIORITY frames").counted(Event::PriorityFrames)),
            false => Ok(()),
        }
    }

    pub(super) fn handle_window_update(&mut self) -> Result<(), Fault> {
        self.window_updates += 1;
        let data = u64::from(self.floods.window_updates).saturating_mul(self.data_frames);
        let most = 5 + 2 * self.opened.saturating_add(data).min(u64::MAX / 4);
        match self.window_updates > most {
            true => Err(Fault::flood("too many WINDOW_UPDATE frames").counted(Event::WindowUpdates)),
            false => Ok(()),
        }
    }

    /// A client reset a stream.
    pub(super) fn handle_reset(&mut self, now: Instant) -> Result<(), Fault> {
        let since = *self.refilled.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            let refill = seconds.saturating_mul(self.floods.reset_rate);
            self.resets = self.resets.saturating_add(refill).min(self.floods.reset_burst);
            self.refilled = Some(now);
        }
        self.resets = self.resets.checked_sub(1).ok_or(Fault::flood("too many streams were reset"))?;
        Ok(())
    }

    /// So many frames wait for the peer.
    #[inline]
    pub(super) fn check_output(&self, waiting: Frames) -> Result<(), Fault> {
        if waiting.all > self.floods.outbound_frames {
            return Err(Fault::flood("too many frames wait to be read").counted(Event::OutboundFrames));
        }
        if waiting.control > self.floods.control_frames {
            return Err(Fault::flood("too many control frames wait to be read").counted(Event::ControlFrames));
        }
        Ok(())
    }
}
