//! What is counted of HTTP's codecs (`http1.*`, `http2.*` and `cluster.NAME.http2.*`, Envoy's names).

use crate::codec::h2::{Event, Events};
use crate::stats_group;

stats_group! {
    /// Of HTTP/2 connections, of either side.
    pub struct Http2Stats {
        dropped_headers_with_underscores: Counter,
        goaway_sent: Counter,
        header_list_size_too_large: Counter,
        header_overflow: Counter,
        headers_cb_no_stream: Counter,
        inbound_empty_frames_flood: Counter,
        inbound_priority_frames_flood: Counter,
        inbound_window_update_frames_flood: Counter,
        keepalive_timeout: Counter,
        metadata_empty_frames: Counter,
        outbound_control_flood: Counter,
        outbound_flood: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        rx_messaging_error: Counter,
        rx_reset: Counter,
        stream_refused_errors: Counter,
        trailers: Counter,
        tx_flush_timeout: Counter,
        tx_reset: Counter,
    }
}

stats_group! {
    /// Of HTTP/1 connections.
    pub struct Http1Stats {
        dropped_headers_with_underscores: Counter,
        metadata_not_supported_error: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        response_flood: Counter,
    }
}

impl Http2Stats {
    /// Adds what has happened on a connection.
    pub fn record(&self, events: &Events) {
        for (event, counter) in [
            (Event::ResetReceived, &self.rx_reset),
            (Event::Refused, &self.stream_refused_errors),
            (Event::ResetSent, &self.tx_reset),
            (Event::MalformedMessage, &self.rx_messaging_error),
            (Event::EmptyFrames, &self.inbound_empty_frames_flood),
            (Event::PriorityFrames, &self.inbound_priority_frames_flood),
            (Event::WindowUpdates, &self.inbound_window_update_frames_flood),
            (Event::OutboundFrames, &self.outbound_flood),
            (Event::ControlFrames, &self.outbound_control_flood),
            (Event::HeaderOverflow, &self.header_overflow),
            (Event::ListTooLarge, &self.header_list_size_too_large),
            (Event::Trailers, &self.trailers),
            (Event::GoawaySent, &self.goaway_sent),
            (Event::KeepaliveTimeout, &self.keepalive_timeout),
        ] {
            counter.add(events.count(event));
        }
    }
}
