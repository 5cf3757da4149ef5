//! The bounds of `Http2ProtocolOptions` against floods, with Envoy's defaults. What counts is in the proxy's HTTP/2 codec.

/// Bounds on what is cheap for a peer and not for us; past one, it counts as flooding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// `max_outbound_frames`: frames that wait for a peer that does not read.
    pub outbound_frames: u32,
    /// `max_outbound_control_frames`: of these, PING, SETTINGS and RST_STREAM.
    pub control_frames: u32,
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub priority_frames: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub window_updates: u32,
    /// `stream_reset_burst`: of a server's streams.
    pub reset_burst: u64,
    /// `stream_reset_rate`: how many per second the burst grows by again.
    pub reset_rate: u64,
}

impl Default for FloodLimits {
    /// Envoy's.
    fn default() -> Self {
        Self {
            outbound_frames: 10_000,
            control_frames: 1000,
            empty_frames: 1,
            priority_frames: 100,
            window_updates: 10,
            reset_burst: 1000,
            reset_rate: 33,
        }
    }
}
