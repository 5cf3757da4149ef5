//! Hedging on the per-try timeout: a slow attempt goes on while the next one starts, and whichever answers first wins.
//!
//! The rare form of the loop: its attempts live in boxes and own their heads.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use sidemesh_config::resource::route::Forward;

use super::attempt::{self, Outcome, Waiting};
use super::retry::Verdict;
use super::{Plan, after_failure, after_response, begin_attempt, charge, for_cluster, permitted, pick, settle};
use crate::body::Body;
use crate::http::exchange::Exchange;
use crate::http::finish::Answer;
use crate::http::guard::Limit;
use crate::upstream::{AttemptInfo, AttemptOptions, Host};

struct Racer {
    future: Pin<Box<dyn Future<Output = Outcome>>>,
    host: Rc<Host>,
    info: Rc<AttemptInfo>,
}

/// As the plain loop, with several attempts in flight.
pub async fn run(x: &mut Exchange, forward: &Forward, plan: &mut Plan) -> Answer {
    let mut racers: Vec<Racer> = Vec::new();
    let mut start = true;
    loop {
        if start {
            match pick(x, plan) {
                Ok(host) => {
                    begin_attempt(x, forward, plan, &host);
                    plan.started = x.now();
                    racers.push(racer(x, plan, &host));
                    plan.tried.push(host);
                }
                Err(reply) if racers.is_empty() => return for_cluster(x, plan, reply),
                Err(_) => {}
            }
        }
        let (at, outcome) = next(x, plan, &mut racers).await;
        let (host, info) = match racers.get(at) {
            Some(racer) => (racer.host.clone(), racer.info.clone()),
            None => return Answer::Abort(crate::body::Error::Canceled),
        };
        attempt::over(x, &info, &outcome);
        plan.timed_out = matches!(outcome, Outcome::Limit(Limit::PerTry));
        start = match &outcome {
            Outcome::Limit(Limit::PerTry) => {
                plan.cluster.on_slow(&host);
                let random = x.manager.worker.local.random.next_u64();
                let verdict = plan.retry.as_mut().map(|r| r.after_try_timeout(true, random));
                if !matches!(verdict, Some(Verdict::Again(_))) {
                    // Without another hedge the attempts in flight have the rest of the route's time.
                    plan.timeouts.per_try = None;
                }
                verdict.is_some_and(|v| permitted(x, plan, v).is_some())
            }
            Outcome::Response(response) => {
                let wait = after_response(x, plan, response);
                drop(racers.remove(at));
                let Some(wait) = wait else {
                    return settle(x, forward, plan, host, outcome);
                };
                attempt::back_off(x, plan, wait).await;
                true
            }
            Outcome::Failed(error) => {
                let wait = after_failure(x, plan, error, info.sent_start.get().is_some());
                drop(racers.remove(at));
                match wait {
                    Some(wait) => {
                        attempt::back_off(x, plan, wait).await;
                        true
                    }
                    None if racers.is_empty() => return settle(x, forward, plan, host, outcome),
                    None => false,
                }
            }
            Outcome::Limit(limit) => {
                if *limit == Limit::Route {
                    out_of_time(x, plan, &racers);
                }
                return settle(x, forward, plan, host, outcome);
            }
        };
    }
}

/// The route's time is over: every attempt in flight has timed out. What is charged for one of them comes with the answer.
fn out_of_time(x: &Exchange, plan: &Plan, racers: &[Racer]) {
    for racer in racers {
        plan.cluster.on_timeout(&racer.host, racer.info.connection().and_then(|c| c.protocol));
    }
    for _ in racers.iter().skip(1) {
        plan.cluster.stats().upstream_rq_timeout.inc();
        charge(x, &plan.cluster, x.timeout_status().as_u16(), None, false);
    }
}

fn racer(x: &Exchange, plan: &Plan, host: &Rc<Host>) -> Racer {
    let body = x.upload.as_ref().map_or_else(Body::empty, |u| u.reader());
    let info = Rc::new(AttemptInfo::default());
    let (cluster, priority, protocol) = (plan.cluster.clone(), plan.priority, x.protocol);
    let (head, send, of, record) =
        (x.parts.clone(), attempt::send_options(x, &plan.cluster), host.clone(), info.clone());
    let downstream = attempt::downstream(x, &plan.cluster);
    let connection = x.info.connection.clone();
    let future = Box::pin(async move {
        let options = AttemptOptions {
            priority,
            send,
            downstream: downstream.as_ref(),
            protocol: Some(protocol),
            connection: Some(&connection),
        };
        match cluster.request(&of, &head, body, options, &record).await {
            Ok(response) => Outcome::Response(response),
            Err(error) => Outcome::Failed(error),
        }
    });
    Racer { future, host: host.clone(), info }
}

/// The first outcome among the attempts; a limit is the newest attempt's.
async fn next(x: &Exchange, plan: &Plan, racers: &mut [Racer]) -> (usize, Outcome) {
    let mut waiting = Waiting::new(x.now());
    let newest = racers.len().saturating_sub(1);
    poll_fn(|cx| {
        for (at, racer) in racers.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = racer.future.as_mut().poll(cx) {
                return Poll::Ready((at, outcome));
            }
        }
        waiting.poll(x, plan, cx).map(|limit| (newest, Outcome::Limit(limit)))
    })
    .await
}
