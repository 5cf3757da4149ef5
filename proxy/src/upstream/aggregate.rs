//! Aggregate clusters: the priorities of other clusters in a row. Who is chosen belongs to one of those, and so do the request's
//! limits, connections and counters.

use std::rc::Rc;

use sidemesh_config::resource::cluster::Cluster as Config;

use super::balancer::{Balancer, LoadPolicy, PriorityLoad};
use super::cluster::{Cluster, PickContext, request};
use super::error::PickError;
use super::host::Host;

/// The clusters behind an aggregate, and how its load spreads over their priorities.
#[derive(Default)]
pub struct Aggregate {
    pub children: Vec<Rc<Cluster>>,
    spread: Option<Spread>,
}

struct Spread {
    /// What it was made of.
    balancers: Vec<Rc<Balancer>>,
    load: PriorityLoad,
    /// Child and its priority, by the aggregate's own priority.
    levels: Vec<(usize, usize)>,
}

impl Aggregate {
    pub(super) fn set_children(&mut self, children: Vec<Rc<Cluster>>) {
        self.children = children;
        self.spread = None;
    }

    fn spread(&mut self, config: &Config) -> &Spread {
        let balancers: Vec<_> = self.children.iter().map(|c| c.balancer()).collect();
        let same = |s: &Spread| {
            s.balancers.len() == balancers.len() && s.balancers.iter().zip(&balancers).all(|(a, b)| Rc::ptr_eq(a, b))
        };
        if !self.spread.as_ref().is_some_and(same) {
            self.spread = None;
        }
        self.spread.get_or_insert_with(|| {
            let mut levels = Vec::new();
            let mut sets = Vec::new();
            for (child, balancer) in balancers.iter().enumerate() {
                for (priority, set) in balancer.sets().enumerate() {
                    levels.push((child, priority));
                    sets.push(set);
                }
            }
            let policy = LoadPolicy {
                overprovisioning: 140,
                weighted: false,
                panic_threshold: config.lb_common.panic_threshold,
            };
            let load = PriorityLoad::of(&sets, policy);
            drop(sets);
            Spread { balancers: balancers.clone(), load, levels }
        })
    }
}

impl Cluster {
    pub(super) fn pick_from_children(&self, context: &PickContext<'_>, config: &Config) -> Result<Rc<Host>, PickError> {
        let random = context.hash.unwrap_or_else(|| self.worker.local.random.next_u64());
        let mut aggregate = self.aggregate.borrow_mut();
        let spread = aggregate.spread(config);
        let (level, availability) = spread.load.choose(random);
        let Some((child, priority)) = spread.levels.get(level).copied() else { return Err(PickError::NoHealthyHost) };
        let balancer = spread.balancers[child].clone();
        let child = aggregate.children[child].clone();
        drop(aggregate);
        child.picked(balancer.pick_at(priority, availability, &request(context), &child.chance()))
    }

    /// The cluster a host belongs to: this one, or one behind this aggregate.
    pub fn owner(self: &Rc<Self>, host: &Host) -> Rc<Cluster> {
        if host.state().cluster == *self.name() {
            return self.clone();
        }
        for child in &self.aggregate.borrow().children {
            let owner = child.owner(host);
            if host.state().cluster == *owner.name() {
                return owner;
            }
        }
        self.clone()
    }
}
