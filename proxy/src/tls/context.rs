//! A context with its secrets, what is built of both, and the contexts of one side that are in use.
//!
//! What is built is swapped when a file that went into it changes; handshakes under way keep what they began with.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use sidemesh_config::resource::tls::CommonTls;
use sidemesh_config::value::Name;

use super::error::Error;
use super::material::FileState;
use super::merge::Resolved;
use super::peer::Certificate;
use super::store::Expirations;

/// What one side (server or client) builds of its context.
pub(super) trait Side: Debug + Sized {
    type Config: Clone + PartialEq + Debug;

    fn build(config: &Self::Config, resolved: &Resolved) -> Result<Self, Error>;
    fn common(config: &Self::Config) -> &CommonTls;
    /// The files that went into it.
    fn files(&self) -> &[FileState];
}

#[derive(Debug)]
pub(super) struct Context<S: Side> {
    pub(super) config: S::Config,
    resolved: Resolved,
    state: ArcSwap<S>,
}

impl<S: Side> Context<S> {
    fn build(config: &S::Config, resolved: Resolved) -> Result<Self, Error> {
        let state = S::build(config, &resolved)?;
        Ok(Context { config: config.clone(), resolved, state: ArcSwap::from_pointee(state) })
    }

    /// Its certificates and CA, and when each runs out. What the context itself gives has no name of its own.
    pub(super) fn expirations<'a>(
        &self,
        certificates: impl Iterator<Item = &'a Certificate>,
        ca: Option<i64>,
    ) -> Expirations {
        let common = S::common(&self.config);
        let unnamed = common.certificates.iter().map(|_| Name::from("unnamed_cert_e3b0c442"));
        let names = unnamed.chain(common.certificate_secrets.iter().map(|s| s.name.clone()));
        let ca_name = common.validation_secret.as_ref().map(|s| s.name.clone());
        let ca = ca.map(|end| (ca_name.unwrap_or_else(|| Name::from("unnamed_ca_cert_e3b0c442")), end));
        names.zip(certificates.map(|c| c.not_after)).chain(ca).collect()
    }

    pub(super) fn state(&self) -> Arc<S> {
        self.state.load_full()
    }

    /// Takes in files that changed. `Ok(false)`: none did.
    pub(super) fn refresh(&self) -> Result<bool, Error> {
        let is_changed = |f: &FileState| std::fs::read(&f.path).is_ok_and(|now| now != f.content);
        if !self.state.load().files().iter().any(is_changed) {
            return Ok(false);
        }
        self.state.store(Arc::new(S::build(&self.config, &self.resolved)?));
        Ok(true)
    }
}

/// The contexts of one side: found by equality of configuration and secrets, forgotten with their last user.
#[derive(Debug)]
pub(super) struct Shelf<S: Side>(HashMap<u64, Vec<Weak<Context<S>>>>);

impl<S: Side> Default for Shelf<S> {
    fn default() -> Self {
        Shelf(HashMap::new())
    }
}

impl<S: Side> Shelf<S> {
    /// The context, built before or now.
    pub(super) fn context(&mut self, config: &S::Config, resolved: Resolved) -> Result<Arc<Context<S>>, Error> {
        let list = self.0.entry(digest(S::common(config), &resolved)).or_default();
        list.retain(|weak| weak.strong_count() > 0);
        let same = |c: &Arc<Context<S>>| c.config == *config && c.resolved == resolved;
        if let Some(found) = list.iter().filter_map(Weak::upgrade).find(same) {
            return Ok(found);
        }
        let built = Arc::new(Context::build(config, resolved)?);
        list.push(Arc::downgrade(&built));
        Ok(built)
    }

    pub(super) fn in_use(&self) -> Vec<Arc<Context<S>>> {
        self.0.values().flatten().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|_, list| list.iter().any(|weak| weak.strong_count() > 0));
    }
}

/// Good enough to tell contexts apart; equality decides.
fn digest(common: &CommonTls, resolved: &Resolved) -> u64 {
    foldhash::fast::FixedState::default().hash_one(format!("{common:?}{resolved:?}"))
}
