//! The key files of a fleet's tokens, and their replacement under load.

use std::path::PathBuf;

use access::keys::{KeyPairText, PublicKey, SigningKey};
use harness::{Client, Plan, World, eventually};
use tempfile::TempDir;

/// The password of `root` in fleets with access control.
pub(crate) const ROOT_PASSWORD: &str = "Complicated_password1";

/// Two pairs of keys, and the files that the control planes of a fleet read. At first the old pair is in
/// them.
pub(crate) struct KeyFiles {
    directory: TempDir,
    pub(crate) old: KeyPairText,
    pub(crate) new: KeyPairText,
}

impl KeyFiles {
    pub(crate) fn new() -> Self {
        let [old, new] = [(); 2].map(|()| KeyPairText::generate().expect("a key"));
        let files = Self { directory: tempfile::tempdir().expect("a directory"), old, new };
        files.write(&files.old.private, &files.old.public);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces each file in one step, so that nobody reads half of one.
    fn write(&self, private: &str, public: &str) {
        for (name, text) in [("private.key", private), ("public.key", public)] {
            std::fs::write(self.path("next"), text).expect("written");
            std::fs::rename(self.path("next"), self.path(name)).expect("renamed");
        }
    }

    /// Switches access control on in a plan, with these keys.
    pub(crate) fn guard(&self, plan: Plan) -> Plan {
        self.name(plan)
            .plane_flag("--rbac-enable", "true")
            .gateway_flag("--rbac-enable", "true")
            // All logins come through the gateways. Failed ones of one client must not lock out the others.
            .plane_flag("--http-trusted-proxies", "127.0.0.0/8")
            .variable("SC_INIT_ROOT_PASSWORD", ROOT_PASSWORD)
    }

    /// Names the keys to the control planes of a plan, which use them once access control is on.
    pub(crate) fn name(&self, plan: Plan) -> Plan {
        plan.plane_flag("--rbac-private-key", &self.path("private.key").display().to_string())
            .plane_flag("--rbac-public-key", &self.path("public.key").display().to_string())
    }

    /// Lets every control plane know both keys. The old one signs.
    pub(crate) async fn announce_new(&self, world: &World) {
        self.replace(world, &self.old.private, &self.both()).await;
    }

    /// Lets every control plane sign with the new key.
    pub(crate) async fn sign_with_new(&self, world: &World) {
        self.replace(world, &self.new.private, &self.both()).await;
    }

    /// Lets every control plane forget the old key.
    pub(crate) async fn forget_old(&self, world: &World) {
        self.replace(world, &self.new.private, &self.new.public).await;
    }

    fn both(&self) -> String {
        format!("{}\n{}", self.old.public, self.new.public)
    }

    /// Replaces the files, and waits until every control plane has taken them. None is restarted.
    async fn replace(&self, world: &World, private: &str, public: &str) {
        self.write(private, public);
        let signing = SigningKey::from_pem(private.as_bytes()).expect("a key").public().kid.clone();
        let count = PublicKey::all_from_pem(public.as_bytes()).expect("keys").len();
        for plane in &world.control_planes {
            eventually("a control plane takes the keys", || async {
                let answer = Client::new(plane.api).get("/.well-known/jwks.json").await;
                let shown = answer.ok();
                let shown = shown["keys"].as_array()?;
                (shown.len() == count && shown.first()?["kid"] == signing).then_some(())
            })
            .await;
        }
    }
}
