//! The key files of a fleet's tokens, and their replacement under load.

use std::path::PathBuf;

use access::keys::KeyPairText;
use harness::{Plan, World};
use tempfile::TempDir;

/// The password of `root` in fleets with access control.
pub(crate) const ROOT_PASSWORD: &str = "Complicated_password1";

/// Two pairs of keys, and the files that the control planes of a fleet read. At first the old pair is in them.
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

    fn write(&self, private: &str, public: &str) {
        std::fs::write(self.path("private.key"), private).expect("written");
        std::fs::write(self.path("public.key"), public).expect("written");
    }

    /// Switches access control on in a plan, with these keys.
    pub(crate) fn guard(&self, plan: Plan) -> Plan {
        plan.plane_flag("--rbac-enable", "true")
            .gateway_flag("--rbac-enable", "true")
            .plane_flag("--rbac-private-key", &self.path("private.key").display().to_string())
            .plane_flag("--rbac-public-key", &self.path("public.key").display().to_string())
            // All logins come through the gateways. Failed ones of one client must not lock out the others.
            .plane_flag("--http-trusted-proxies", "127.0.0.0/8")
            .variable("SC_INIT_ROOT_PASSWORD", ROOT_PASSWORD)
    }

    /// Lets every control plane know both keys, one after the other. The old one signs.
    pub(crate) async fn announce_new(&self, world: &World) {
        self.roll(world, &self.old.private, &self.both()).await;
    }

    /// Lets every control plane sign with the new key, one after the other.
    pub(crate) async fn sign_with_new(&self, world: &World) {
        self.roll(world, &self.new.private, &self.both()).await;
    }

    /// Lets every control plane forget the old key, one after the other.
    pub(crate) async fn forget_old(&self, world: &World) {
        self.roll(world, &self.new.private, &self.new.public).await;
    }

    fn both(&self) -> String {
        format!("{}\n{}", self.old.public, self.new.public)
    }

    async fn roll(&self, world: &World, private: &str, public: &str) {
        self.write(private, public);
        for plane in &world.control_planes {
            assert_eq!(plane.process.terminate().await, Some(0), "a drain ends well");
            plane.process.start();
            plane.ready().await;
        }
    }
}
