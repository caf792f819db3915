//! Services chosen by what they are, not by who uses them.

use super::{ServiceKey, Tenant};

/// Services of a tenant, those that come later included. What is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Whose services.
    pub tenant: Tenant,
    /// Of this application.
    pub app_id: Option<String>,
    /// In this environment; the default one is empty.
    pub environment: Option<String>,
}

impl Scope {
    /// Every service of a tenant.
    pub fn all(tenant: Tenant) -> Self {
        Self { tenant, app_id: None, environment: None }
    }

    /// A service of the tenant with this name belongs to it.
    pub fn matches(&self, key: &ServiceKey) -> bool {
        let is = |wanted: &Option<String>, value: &String| wanted.as_ref().is_none_or(|it| it == value);
        is(&self.app_id, &key.app_id) && is(&self.environment, &key.environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_takes_what_it_names_and_the_default_environment_is_one_of_its_own() {
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
