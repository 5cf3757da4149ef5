//! Retries: only what is idempotent or was never sent, unless the user says otherwise; always inside the cluster's budget.

use std::time::Duration;

use sidemesh_proto::envoy::config::route::v3 as xds;
use sidemesh_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::{defaults, wire};
use crate::model::policy::Policy;
use crate::model::route::RuleRetry;

/// What the method of a request says about repeating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    Idempotent,
    Other,
}

impl Methods {
    pub(super) fn of(method: &str) -> Methods {
        if defaults::IDEMPOTENT_METHODS.contains(&method) { Methods::Idempotent } else { Methods::Other }
    }
}

/// A regular expression for `:method`.
pub(super) fn idempotent_methods() -> String {
    defaults::IDEMPOTENT_METHODS.join("|")
}

/// What the policies say about retries of one route.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Retry {
    attempts: Option<u32>,
    per_try_timeout: Option<Duration>,
    on: Option<Vec<String>>,
    status_codes: Vec<u32>,
    /// The rule names the codes, and so no other answers.
    only_codes: bool,
    backoff: Option<(Duration, Option<Duration>)>,
    all_methods: bool,
}

impl Retry {
    /// The first policy that speaks of a thing decides it.
    pub(super) fn from_policies(policies: &[&Policy]) -> Retry {
        let mut retry = Retry::default();
        for policy in policies {
            let given = &policy.retries;
            retry.attempts = retry.attempts.or(given.attempts);
            retry.per_try_timeout = retry.per_try_timeout.or(given.per_try_timeout);
            if retry.on.is_none() {
                retry.on.clone_from(&given.on);
            }
            if retry.status_codes.is_empty() {
                retry.status_codes.clone_from(&given.status_codes);
            }
            retry.backoff = retry.backoff.or_else(|| given.backoff_base.map(|base| (base, given.backoff_max)));
            retry.all_methods |= given.all_methods;
        }
        retry
    }

    /// What a rule says goes before policies.
    pub(super) fn with_rule(mut self, rule: Option<&RuleRetry>, backend_timeout: Option<Duration>) -> Retry {
        self.per_try_timeout = backend_timeout.filter(|t| !t.is_zero()).or(self.per_try_timeout);
        let Some(rule) = rule else { return self };
        self.attempts = rule.attempts.or(self.attempts);
        self.backoff = rule.backoff.map(|base| (base, None)).or(self.backoff);
        if !rule.codes.is_empty() {
            self.status_codes.clone_from(&rule.codes);
            self.only_codes = true;
        }
        self
    }

    pub(super) fn same_for_all_methods(&self) -> bool {
        self.all_methods || self.attempts == Some(0)
    }

    pub(super) fn policy(&self, methods: Methods) -> Option<xds::RetryPolicy> {
        let attempts = self.attempts.unwrap_or(defaults::RETRIES);
        if attempts == 0 && self.per_try_timeout.is_none() {
            return None;
        }
        let repeatable = self.all_methods || methods == Methods::Idempotent;
        let mut on = match (&self.on, repeatable) {
            (_, true) if self.only_codes => defaults::RETRY_ON_NO_ANSWER.to_owned(),
            (Some(words), true) => words.join(","),
            (None, true) => defaults::RETRY_ON_IDEMPOTENT.to_owned(),
            (_, false) => defaults::RETRY_ON_NEVER_SENT.to_owned(),
        };
        let codes = if repeatable { self.status_codes.clone() } else { Vec::new() };
        if !codes.is_empty() {
            on.push_str(",retriable-status-codes");
        }
        if attempts == 0 {
            on.clear();
        }
        let (base, max) = self.backoff.unwrap_or((defaults::RETRY_BACKOFF_BASE, Some(defaults::RETRY_BACKOFF_MAX)));
        Some(xds::RetryPolicy {
            retry_on: on,
            num_retries: wire::u32_value(attempts),
            per_try_timeout: self.per_try_timeout.and_then(wire::duration),
            retriable_status_codes: codes,
            retry_back_off: Some(xds::retry_policy::RetryBackOff {
                base_interval: wire::duration(base),
                // Envoy's own default is ten times the base.
                max_interval: max.and_then(wire::duration),
            }),
            retry_host_predicate: vec![other_host()],
            host_selection_retry_max_attempts: defaults::HOST_SELECTION_ATTEMPTS,
            ..Default::default()
        })
    }
}

/// A retry goes to a host that was not tried yet, while there is one.
fn other_host() -> xds::retry_policy::RetryHostPredicate {
    use xds::retry_policy::retry_host_predicate::ConfigType;
    let predicate = PreviousHostsPredicate::default();
    xds::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(ConfigType::TypedConfig(sidemesh_proto::pack(&predicate))),
    }
}
