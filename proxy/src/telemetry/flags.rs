//! Response flags: what went wrong with a request, as Envoy names it.

/// A set of response flags, which remembers in which order they were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFlags {
    bits: u32,
    /// The numbers of the flags plus one, [`WIDTH`] bits each, the first lowest.
    order: u32,
}

/// Bits that a flag's number takes in [`ResponseFlags`]'s order.
const WIDTH: u32 = 5;
/// So many flags are remembered in order; more than three have not been seen together.
const REMEMBERED: u32 = u32::BITS / WIDTH;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: ResponseFlags = ResponseFlags { bits: 1 << $bit, order: $bit + 1 };)*
            /// Every flag: value, short and long name.
            pub const ALL: &'static [(ResponseFlags, &'static str, &'static str)] = &[$((ResponseFlags::$name, $short, $long)),*];
        }
    };
}

flags! {
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
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
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
    /// Adds `flags`, in their order, behind those that are set.
    pub fn insert(&mut self, flags: ResponseFlags) {
        for number in flags.numbers() {
            let bit = 1 << (number - 1);
            let filled = (u32::BITS - self.order.leading_zeros()).div_ceil(WIDTH);
            if self.bits & bit == 0 && filled < REMEMBERED {
                self.order |= number << (WIDTH * filled);
            }
            self.bits |= bit;
        }
    }

    /// The numbers of the flags plus one, in the order they were set.
    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..REMEMBERED).map(move |place| (self.order >> (WIDTH * place)) & ((1 << WIDTH) - 1)).take_while(|n| *n != 0)
    }

    pub fn has(self, flag: ResponseFlags) -> bool {
        self.bits & flag.bits != 0
    }
    pub fn is_empty(self) -> bool {
        self.bits == 0
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
        let named = |number: u32| Self::ALL.iter().find(|(flag, _, _)| flag.bits == 1 << (number - 1)).map(&pick);
        let names: Vec<_> = self.numbers().filter_map(named).collect();
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_in_the_order_they_were_set() {
        let (spent, failed) =
            (ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED, ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.short(), "-");
        [spent, failed, spent].into_iter().for_each(|f| flags.insert(f));
        assert_eq!((flags.short(), flags.has(failed)), ("URX,UF".to_owned(), true));
        let mut flags = failed;
        flags.insert(spent);
        assert_eq!(flags.short(), "UF,URX");
        ResponseFlags::ALL.iter().for_each(|(f, _, _)| flags.insert(*f));
        assert!(ResponseFlags::ALL.iter().all(|(f, _, _)| flags.has(*f)));
    }
}
