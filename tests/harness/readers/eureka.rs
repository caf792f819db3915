//! Clients of Eureka: one that asks for an application, and one that keeps all applications by what has changed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Told;
use super::asking::{Answer, get, stamp_of, text};
use crate::Client;
use crate::oracle::STAMP;

/// The application of the registry in which the services are.
const SHOP: &str = "/eureka/in/app=shop/apps";

/// The instances of one application.
pub(super) async fn one(client: &Client, name: &str) -> Option<Answer> {
    let body = match get(client, &format!("{SHOP}/{}", name.to_uppercase())).await? {
        Ok(body) => body,
        Err(answer) => return Some(answer),
    };
    let instances = body["application"]["instance"].as_array().into_iter().flatten();
    let told = instances.map(|one| (text(&one["instanceId"]), stamp_of(&one["metadata"][STAMP])));
    Some(Answer::Told(told.collect()))
}

/// All applications, as a client keeps them: it fetches them once, and then only what has changed. A hash of
/// everything tells it when that was not enough; it then fetches them again.
#[derive(Debug, Default)]
pub(super) struct Applications {
    /// Whether they were fetched.
    known: bool,
    /// By application and id: the status and the stamp.
    instances: BTreeMap<(String, String), (String, Option<u64>)>,
}

impl Applications {
    /// Brings them up to date. The answer is what is known of one of them.
    pub(super) async fn ask(&mut self, client: &Client, name: &str) -> Option<Answer> {
        if self.known {
            match get(client, &format!("{SHOP}/delta")).await? {
                // A hash that differs is no fault: somebody who is new at a gateway lacks what left before.
                Ok(body) => self.known = self.take(&body["applications"]).is_ok(),
                Err(answer) => return Some(answer),
            }
        }
        if !self.known {
            self.instances.clear();
            match get(client, SHOP).await? {
                Ok(body) => {
                    if let Err(words) = self.take(&body["applications"]) {
                        return Some(Answer::Denied(format!("everything has another hash: {words}")));
                    }
                }
                Err(answer) => return Some(answer),
            }
            self.known = true;
        }
        let name = name.to_uppercase();
        let of_name = self.instances.iter().filter(|((app, _), _)| *app == name);
        let told: Told = of_name.map(|((_, id), (_, stamp))| (id.clone(), *stamp)).collect();
        Some(Answer::Told(told))
    }

    /// Takes in applications. An error is the difference between the hash that was told and that of what is
    /// known now.
    fn take(&mut self, applications: &Value) -> Result<(), String> {
        for application in applications["application"].as_array().into_iter().flatten() {
            let app = text(&application["name"]);
            for one in application["instance"].as_array().into_iter().flatten() {
                let key = (app.clone(), text(&one["instanceId"]));
                if one["actionType"] == "DELETED" {
                    self.instances.remove(&key);
                } else {
                    self.instances.insert(key, (text(&one["status"]), stamp_of(&one["metadata"][STAMP])));
                }
            }
        }
        let (told, known) = (text(&applications["apps__hashcode"]), self.hash());
        if told == known { Ok(()) } else { Err(format!("{told} was told, and {known} is known")) }
    }

    /// The instances of each status, as Eureka writes them.
    fn hash(&self) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for (status, _) in self.instances.values() {
            *counts.entry(status).or_default() += 1;
        }
        counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_changed_is_taken_in_and_a_lack_is_seen_by_the_hash() {
        let one = |id: &str, action: &str, stamp: &str| json!({"instanceId": id, "status": "UP", "actionType": action, "metadata": {STAMP: stamp}});
        let told = |hash: &str, instances: Vec<Value>| json!({"apps__hashcode": hash, "application": [{"name": "A", "instance": instances}]});
        let mut applications = Applications::default();
        let all = told("UP_2_", vec![one("a", "ADDED", "1"), one("b", "ADDED", "1")]);
        assert_eq!(applications.take(&all), Ok(()));
        let changed = told("UP_1_", vec![one("a", "DELETED", "1"), one("b", "MODIFIED", "2")]);
        assert_eq!(applications.take(&changed), Ok(()));
        let only = ("A".to_owned(), "b".to_owned());
        assert_eq!(applications.instances, BTreeMap::from([(only, ("UP".to_owned(), Some(2)))]));
        assert!(applications.take(&told("UP_3_", Vec::new())).is_err(), "two are missing");
    }
}
