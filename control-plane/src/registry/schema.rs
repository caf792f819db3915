//! Schemas: contents stay in the store, the view knows which there are.
//!
//! Contents are written where every Service-Center reads them; one that a newer Service-Center had stored under
//! its hash loses its reference then, so that nobody reads the old content.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{ServiceRef, null_default};

use super::quota::exceeded;
use super::service::{existing, unchanged};
use super::{Caller, Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Op, RangeRequest, Txn};
use crate::view::ServiceView;

/// Bytes of contents written in one transaction; etcd takes 1.5 MiB.
const BYTES_PER_TXN: usize = 1 << 20;
/// Schemas written, and schemas deleted, in one transaction, three steps each.
const SCHEMAS_PER_TXN: usize = 150;

/// A schema on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Schema {
    /// Its id, unique in its service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub schema_id: String,
    /// A digest that clients compare; absent when unknown.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The content.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub schema: String,
}

impl Registry {
    /// One schema's content and summary.
    pub async fn schema(&self, caller: &Caller, service: &ServiceRef, id: &str) -> Result<Schema, Failure> {
        let summary = self.schema_summary(caller, service, id).await?;
        let absent = || Failure::new(Code::SchemaNotFound, "schema does not exist.");
        let schema = self.content(service, id).await?.ok_or_else(absent)?;
        Ok(Schema { schema_id: id.to_owned(), summary, schema })
    }

    async fn content(&self, service: &ServiceRef, id: &str) -> Result<Option<String>, Failure> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let by_ref = Key::SchemaRef(service.clone(), id.to_owned()).render();
        let direct = Key::Schema(service.clone(), id.to_owned()).render();
        let (Some(by_ref), Some(direct)) = (by_ref, direct) else { return Ok(None) };
        let txn = Txn { then: vec![Op::Get(by_ref), Op::Get(direct)], ..Txn::default() };
        let mut got = self.store.txn(txn).await?.got.into_iter();
        let (reference, direct) = (got.next().flatten(), got.next().flatten());
        if let Some(reference) = reference {
            let key = keys::schema_content(&service.tenant, &text(&reference.value));
            if let Some(kv) = self.store.range(RangeRequest::key(key)).await?.items.first() {
                return Ok(Some(text(&kv.value)));
            }
        }
        Ok(direct.map(|kv| text(&kv.value)))
    }

    /// All schemas of a service, in the order of their declaration; ids without a content too.
    pub async fn schemas(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        with_content: bool,
    ) -> Result<Vec<Schema>, Failure> {
        let view = self.answer(caller, |snapshot| existing(snapshot, service).cloned()).await?;
        let mut schemas = Vec::new();
        for id in listed_ids(&view) {
            let known = view.schemas.get(&id);
            let summary = known.and_then(|schema| schema.summary.clone()).unwrap_or_default();
            let stored = with_content && known.is_some_and(|schema| schema.content);
            let schema =
                if stored { self.content(service, &id).await?.unwrap_or_default() } else { String::new() };
            schemas.push(Schema { schema_id: id, summary, schema });
        }
        Ok(schemas)
    }

    /// Stores one schema, and declares its id where it was not.
    pub async fn put_schema(&self, service: &ServiceRef, schema: Schema) -> Result<(), Failure> {
        validate::schema(&schema, false)?;
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let schema = &schema;
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service)?;
            let known = listed_ids(view);
            if !known.contains(&schema.schema_id) && known.len() >= self.quotas.now().schemas {
                return Err(exceeded("SCHEMA", self.quotas.now().schemas, known.len()));
            }
            let mut txn = self.schema_txn(service, view, std::slice::from_ref(schema))?;
            let declared = view.service.as_ref().is_some_and(|s| s.schemas.contains(&schema.schema_id));
            if !declared {
                let mut ids = view.service.as_ref().map(|s| s.schemas.clone()).unwrap_or_default();
                ids.push(schema.schema_id.clone());
                txn.then.push(self.declare_schemas(service, view, ids));
            }
            Ok(self.commit(txn).await?.succeeded.then_some(()))
        })
        .await
    }

    /// Replaces all schemas of a service, at one revision where their contents fit into a transaction. Otherwise
    /// contents are written ahead, and count when the last transaction declares them; should a schema be
    /// declared or deleted meanwhile, all is written again.
    pub async fn replace_schemas(&self, service: &ServiceRef, schemas: Vec<Schema>) -> Result<(), Failure> {
        let invalid = || Failure::invalid("Invalid request.");
        if schemas.is_empty() || schemas.len() > self.quotas.now().schemas {
            return Err(invalid());
        }
        let mut unique: BTreeMap<String, Schema> = BTreeMap::new();
        let mut order = Vec::new();
        for schema in schemas {
            validate::schema(&schema, true).map_err(|_| invalid())?;
            if !unique.contains_key(&schema.schema_id) {
                order.push(schema.schema_id.clone());
                unique.insert(schema.schema_id.clone(), schema);
            }
        }
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let wanted: Vec<&Schema> = order.iter().filter_map(|id| unique.get(id)).collect();
        let (chunks, order) = (&chunks(&wanted), &order);
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service)?;
            let (last, ahead) = chunks.split_last().ok_or_else(invalid)?;
            for chunk in ahead {
                if !self.commit(self.schema_txn(service, view, chunk)?).await?.succeeded {
                    return Ok(None);
                }
            }
            let gone = || view.schemas.keys().filter(|id| !order.contains(id));
            let all = gone().count() <= SCHEMAS_PER_TXN;
            let mut txn = self.schema_txn(service, view, last)?;
            txn.then.extend(gone().take(SCHEMAS_PER_TXN).flat_map(|id| forget(service, id)));
            txn.then.push(self.declare_schemas(service, view, order.clone()));
            let done = self.commit(txn).await?.succeeded && all;
            Ok(done.then_some(()))
        })
        .await
    }

    /// Deletes a schema with its declaration.
    pub async fn delete_schema(&self, service: &ServiceRef, id: &str) -> Result<(), Failure> {
        validate::schema_id(id)?;
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.schema_summary(&caller, service, id).await?;
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service)?;
            let mut ids = view.service.as_ref().map(|s| s.schemas.clone()).unwrap_or_default();
            ids.retain(|declared| declared != id);
            let mut txn = unchanged(service, view);
            txn.then.extend(forget(service, id));
            txn.then.push(self.declare_schemas(service, view, ids));
            Ok(self.commit(txn).await?.succeeded.then_some(()))
        })
        .await
    }

    fn schema_txn(
        &self,
        service: &ServiceRef,
        view: &ServiceView,
        schemas: &[Schema],
    ) -> Result<Txn, Failure> {
        let mut txn = unchanged(service, view);
        for schema in schemas {
            let of =
                |key: fn(ServiceRef, String) -> Key| key(service.clone(), schema.schema_id.clone()).render();
            txn.then.extend(of(Key::Schema).map(|key| Op::put(key, schema.schema.clone())));
            if !schema.summary.is_empty() {
                txn.then.extend(of(Key::SchemaSummary).map(|key| Op::put(key, schema.summary.clone())));
            }
            txn.then.extend(of(Key::SchemaRef).map(Op::Delete));
        }
        Ok(txn)
    }

    fn declare_schemas(&self, service: &ServiceRef, view: &ServiceView, ids: Vec<String>) -> Op {
        let mut changed = view.service.as_deref().cloned().unwrap_or_default();
        changed.schemas = ids;
        changed.mod_timestamp = self.seconds();
        Op::put(keys::service(service), record::render(&changed, view.unknown.as_deref()))
    }
}

/// Declared ids first, then ids that only have a content.
fn listed_ids(view: &Arc<ServiceView>) -> Vec<String> {
    let mut ids = view.service.as_ref().map(|s| s.schemas.clone()).unwrap_or_default();
    let undeclared: Vec<String> = view.schemas.keys().filter(|id| !ids.contains(id)).cloned().collect();
    ids.extend(undeclared);
    ids
}

fn forget(service: &ServiceRef, id: &str) -> Vec<Op> {
    let of =
        |key: fn(ServiceRef, String) -> Key| key(service.clone(), id.to_owned()).render().map(Op::Delete);
    [of(Key::Schema), of(Key::SchemaSummary), of(Key::SchemaRef)].into_iter().flatten().collect()
}

fn chunks(schemas: &[&Schema]) -> Vec<Vec<Schema>> {
    let mut chunks: Vec<Vec<Schema>> = Vec::new();
    let mut bytes = 0;
    for schema in schemas {
        let full = bytes + schema.schema.len() > BYTES_PER_TXN;
        match chunks.last_mut() {
            Some(chunk) if !full && chunk.len() < SCHEMAS_PER_TXN => chunk.push((*schema).clone()),
            _ => {
                chunks.push(vec![(*schema).clone()]);
                bytes = 0;
            }
        }
        bytes += schema.schema.len();
    }
    chunks
}
