//! Finds: the services that answer a consumer's request for a provider.
//!
//! One function answers a request for instances and decides which providers concern a consumer that has made
//! the request ([`super::interest`]). A watch therefore tells exactly what the consumer's finds would answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::model::{Service, ServiceRef, Tenant};

use super::access;
use super::entry::{ServiceView, VersionEntry};
use super::snapshot::{Snapshot, select};
use crate::keys::Name;
use crate::version::VersionRule;

/// A request for the instances of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Find {
    /// The tenant of the provider.
    pub tenant: Tenant,
    /// The name of the provider, or its alias.
    pub name: Name,
    /// The versions that the consumer asks for.
    pub versions: VersionRule,
    /// True to look for an alias when no service has the name.
    pub by_alias: bool,
}

/// A consumer, as far as its access to providers depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Its record.
    pub service: &'a Service,
    /// Its tags.
    pub tags: &'a BTreeMap<String, String>,
}

impl Find {
    /// The registered versions of the name or, when no service has the name, of the alias.
    pub fn registered<'a>(&self, snapshot: &'a Snapshot) -> &'a [VersionEntry] {
        if self.by_alias {
            snapshot.by_name_or_alias(&self.tenant, &self.name)
        } else {
            snapshot.versions(&self.tenant, &self.name)
        }
    }

    /// True when the find is answered, perhaps with nothing. One of a name that nobody has registered, or of
    /// one version that nobody has, is refused.
    pub fn is_answered(&self, snapshot: &Snapshot) -> bool {
        let versions = self.registered(snapshot);
        let exact = matches!(self.versions, VersionRule::Exact(_));
        !versions.is_empty() && (!exact || select(versions, &self.versions).next().is_some())
    }

    /// The services that answer, newest version first. Without an asker nothing is hidden.
    pub fn services<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        asker: Option<Asker<'a>>,
    ) -> impl Iterator<Item = (ServiceRef, &'a Arc<ServiceView>)> + 'a {
        // A shared service hides from nobody.
        let is_shared = snapshot.shared.contains(&self.tenant, &self.name.app_id, &self.name.name);
        let asker = asker.filter(|_| !is_shared);
        select(self.registered(snapshot), &self.versions).filter_map(move |entry| {
            let service = ServiceRef::new(self.tenant.clone(), &entry.id);
            let (view, _) = snapshot.service(&service)?;
            let sees = asker.is_none_or(|asker| access::allows(view, asker.service, asker.tags, false));
            sees.then_some((service, view))
        })
    }
}
