//! Response flags: what went wrong with a request, as Envoy names it.

/// A set of response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: ResponseFlags = ResponseFlags(1 << $bit);)*
            /// Every flag: value, short and long name, in the order they come about: spent retries
            /// before what they were spent on.
            pub const ALL: &'static [(ResponseFlags, &'static str, &'static str)] = &[$((ResponseFlags::$name, $short, $long)),*];
        }
    };
}

flags! {
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 3, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound";
    DELAY_INJECTED = 9, "DI", "DelayInjected";
    FAULT_INJECTED = 10, "FI", "FaultInjected";
    RATE_LIMITED = 11, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService";
    RATE_LIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    NO_FILTER_CONFIG_FOUND = 20, "NFCF", "NoFilterConfigFound";
    DURATION_TIMEOUT = 21, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 22, "UPE", "UpstreamProtocolError";
    NO_CLUSTER_FOUND = 23, "NC", "NoClusterFound";
    OVERLOAD_MANAGER = 24, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 25, "DF", "DnsResolutionFailed";
    DROP_OVERLOAD = 26, "DO", "DropOverload";
    DOWNSTREAM_REMOTE_RESET = 27, "DR", "DownstreamRemoteReset";
    UNCONDITIONAL_DROP_OVERLOAD = 28, "UDO", "UnconditionalDropOverload";
}

impl ResponseFlags {
    pub fn insert(&mut self, flag: ResponseFlags) {
        self.0 |= flag.0;
    }
    pub fn has(self, flag: ResponseFlags) -> bool {
        self.0 & flag.0 != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The flags' short names (`URX,UF`), `-` for none.
    pub fn short(self) -> String {
        self.names(|(_, short, _)| short)
    }
    /// The flags' long names.
    pub fn long(self) -> String {
        self.names(|(_, _, long)| long)
    }
    /// The flag of a short name.
    pub fn parse(short: &str) -> Option<ResponseFlags> {
        Self::ALL.iter().find(|(_, s, _)| *s == short).map(|(f, _, _)| *f)
    }

    fn names(self, pick: impl Fn(&(ResponseFlags, &'static str, &'static str)) -> &'static str) -> String {
        if self.is_empty() {
            return "-".to_owned();
        }
        let names: Vec<_> = Self::ALL.iter().filter(|(f, _, _)| self.has(*f)).map(pick).collect();
        names.join(",")
    }
}
