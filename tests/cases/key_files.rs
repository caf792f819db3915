//! The key files of a fleet's tokens, and their replacement under load.

use std::net::SocketAddr;
use std::path::PathBuf;

use access::keys::{KeyPairText, PublicKey, SigningKey};
use harness::{Client, Plan, Process, eventually};
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

    /// Starts a standalone registry that reads the keys from these files, and waits until `root` can log in.
    pub(crate) async fn standalone(&self, api: SocketAddr) -> Process {
        let files = ["private.key", "public.key"].map(|name| self.path(name).display().to_string());
        let process = Process::ours("muster")
            .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
            .args(["--rbac-private-key", &files[0], "--rbac-public-key", &files[1]])
            .env("SC_INIT_ROOT_PASSWORD", ROOT_PASSWORD);
        process.start();
        eventually("the registry is ready", || async {
            assert!(process.is_running(), "it has ended: {}", process.log());
            (Client::new(api).try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
        process
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

    /// Lets each of these control planes know both keys. The old one signs.
    pub(crate) async fn announce_new(&self, planes: &[SocketAddr]) {
        self.replace(planes, &self.old.private, &self.both()).await;
    }

    /// Lets each of these control planes sign with the new key.
    pub(crate) async fn sign_with_new(&self, planes: &[SocketAddr]) {
        self.replace(planes, &self.new.private, &self.both()).await;
    }

    /// Lets each of these control planes forget the old key.
    pub(crate) async fn forget_old(&self, planes: &[SocketAddr]) {
        self.replace(planes, &self.new.private, &self.new.public).await;
    }

    fn both(&self) -> String {
        format!("{}\n{}", self.old.public, self.new.public)
    }

    /// Replaces the files, and waits until each control plane has taken them. None is restarted.
    async fn replace(&self, planes: &[SocketAddr], private: &str, public: &str) {
        self.write(private, public);
        let signing = SigningKey::from_pem(private.as_bytes()).expect("a key").public().kid.clone();
        let count = PublicKey::all_from_pem(public.as_bytes()).expect("keys").len();
        for plane in planes {
            eventually("a control plane takes the keys", || async {
                let answer = Client::new(*plane).get("/.well-known/jwks.json").await;
                let shown = answer.ok();
                let shown = shown["keys"].as_array()?;
                (shown.len() == count && shown.first()?["kid"] == signing).then_some(())
            })
            .await;
        }
    }
}
