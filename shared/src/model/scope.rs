//! A choice of services by tenant, application and environment, without regard to their consumers.

use super::{ServiceKey, Tenant};

/// Services of a tenant, including services that are registered later. A part that is `None` matches every
/// value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The tenant that owns the services.
    pub tenant: Tenant,
    /// Their application.
    pub app_id: Option<String>,
    /// Their environment; the default environment is the empty text.
    pub environment: Option<String>,
}

impl Scope {
    /// Every service of a tenant.
    pub fn all(tenant: Tenant) -> Self {
        Self { tenant, app_id: None, environment: None }
    }

    /// True for a service of the tenant that is registered as `key`.
    pub fn matches(&self, key: &ServiceKey) -> bool {
        // The tenant is not compared: in a stored key it may be empty, and callers look only at one tenant.
        matches_text(self.app_id.as_deref(), &key.app_id)
            && matches_text(self.environment.as_deref(), &key.environment)
    }
}

fn matches_text(wanted: Option<&str>, value: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_matches_by_application_and_environment() {
        let key = |app: &str, environment: &str| ServiceKey {
            app_id: app.into(),
            environment: environment.into(),
            ..ServiceKey::default()
        };
        let scope = |app: Option<&str>, environment: Option<&str>| Scope {
            app_id: app.map(Into::into),
            environment: environment.map(Into::into),
            ..Scope::all(Tenant::default())
        };
        assert!(scope(None, None).matches(&key("shop", "test")));
        assert!(scope(Some("shop"), None).matches(&key("shop", "test")));
        assert!(!scope(Some("shop"), None).matches(&key("bank", "test")));
        assert!(scope(None, Some("")).matches(&key("shop", "")));
        assert!(!scope(None, Some("")).matches(&key("shop", "test")));
        assert!(!scope(Some("shop"), Some("test")).matches(&key("shop", "")));
    }
}
