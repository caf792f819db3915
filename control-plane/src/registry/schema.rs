//! Schemas of a service. Contents stay in the store; the view shows only which schemas exist.
//!
//! Contents are written where every generation of Service-Center reads them. A newer Service-Center stores a
//! content under its hash and keeps a reference to it; the reference is deleted on a write, so that nobody
//! reads the old content.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{ServiceRef, null_default};

use super::service::{existing, unchanged};
use super::{Caller, Registry, RegistryError, validate};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Op, RangeRequest, Txn};
use crate::trail;
use crate::view::ServiceView;

/// Bytes of contents written in one transaction; etcd takes 1.5 MiB.
const BYTES_PER_TXN: usize = 1 << 20;
/// Schemas written, and schemas deleted, in one transaction. Each takes three operations.
const SCHEMAS_PER_TXN: usize = 150;

/// A schema as clients send and receive it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Schema {
    /// Id of the schema, unique in its service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub(crate) schema_id: String,
    /// A digest that clients compare; absent when unknown.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub(crate) summary: String,
    /// The content.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub(crate) schema: String,
}

/// The makers of the three keys that a schema may have.
const KEYS_OF_A_SCHEMA: [fn(ServiceRef, String) -> Key; 3] =
    [Key::Schema, Key::SchemaSummary, Key::SchemaRef];

impl Registry {
    /// One schema with its content and summary.
    pub(crate) async fn schema(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
    ) -> Result<Schema, RegistryError> {
        let summary = self.schema_summary(caller, service, id).await?;
        let schema = self.content(service, id).await?.ok_or(RegistryError::SchemaNotFound)?;
        Ok(Schema { schema_id: id.to_owned(), summary, schema })
    }

    /// The content of a schema, read from the store.
    async fn content(&self, service: &ServiceRef, id: &str) -> Result<Option<String>, RegistryError> {
        let by_reference = Key::SchemaRef(service.clone(), id.to_owned()).render();
        let direct = Key::Schema(service.clone(), id.to_owned()).render();
        let (Some(by_reference), Some(direct)) = (by_reference, direct) else { return Ok(None) };
        // Both are read at one revision: a write deletes the reference and puts the direct content together.
        let txn = Txn { then: vec![Op::Get(by_reference), Op::Get(direct)], ..Txn::default() };
        let mut got = self.store.txn(txn).await.map_err(RegistryError::ReadSchema)?.got.into_iter();
        let reference = got.next().flatten();
        let direct = got.next().flatten();
        if let Some(reference) = reference {
            let key = keys::schema_content(&service.tenant, &text(&reference.value));
            let reply = self.store.range(RangeRequest::key(key)).await.map_err(RegistryError::ReadSchema)?;
            if let Some(content) = reply.items.first() {
                return Ok(Some(text(&content.value)));
            }
        }
        Ok(direct.map(|content| text(&content.value)))
    }

    /// All schemas of a service in the order of their declaration, including ids without a content.
    pub(crate) async fn schemas(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        with_content: bool,
    ) -> Result<Vec<Schema>, RegistryError> {
        let view = self.answer(caller, |snapshot| existing(snapshot, service).cloned()).await?;
        let mut schemas = Vec::new();
        for id in listed_ids(&view) {
            let entry = view.schemas.get(&id);
            let summary = entry.and_then(|schema| schema.summary.clone()).unwrap_or_default();
            let has_content = entry.is_some_and(|schema| schema.content);
            let schema = if with_content && has_content {
                self.content(service, &id).await?.unwrap_or_default()
            } else {
                String::new()
            };
            schemas.push(Schema { schema_id: id, summary, schema });
        }
        Ok(schemas)
    }

    /// Stores one schema, and declares its id if it is new.
    pub(crate) async fn put_schema(&self, service: &ServiceRef, schema: Schema) -> Result<(), RegistryError> {
        validate::schema(&schema, false)?;
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let schema = &schema;
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service)?;
            let listed = listed_ids(view);
            let limit = self.quotas.now().schemas;
            if !listed.contains(&schema.schema_id) && listed.len() >= limit {
                return Err(RegistryError::QuotaExceeded { resource: "SCHEMA", limit, used: listed.len() });
            }
            let mut txn = write_schemas(service, view, std::slice::from_ref(schema));
            let mut declared = declared_ids(view);
            if !declared.contains(&schema.schema_id) {
                declared.push(schema.schema_id.clone());
                txn.then.push(self.declare_schemas(service, view, declared));
            }
            let record = record_of(service, &schema.schema_id);
            Ok(self.commit_noting(txn, &record).await?.succeeded.then_some(()))
        })
        .await
    }

    /// Replaces all schemas of a service. If their contents fit into one transaction this happens at one
    /// revision. Otherwise contents are written ahead and count when the last transaction declares them. If a
    /// schema is declared or deleted meanwhile, everything is written again.
    pub(crate) async fn replace_schemas(
        &self,
        service: &ServiceRef,
        schemas: Vec<Schema>,
    ) -> Result<(), RegistryError> {
        if schemas.is_empty() || schemas.len() > self.quotas.now().schemas {
            return Err(invalid_request());
        }
        // Of an id that was sent several times the first schema counts.
        let mut unique: BTreeMap<String, Schema> = BTreeMap::new();
        let mut order = Vec::new();
        for schema in schemas {
            validate::schema(&schema, true).map_err(|_| invalid_request())?;
            if !unique.contains_key(&schema.schema_id) {
                order.push(schema.schema_id.clone());
                unique.insert(schema.schema_id.clone(), schema);
            }
        }
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let wanted: Vec<&Schema> = order.iter().filter_map(|id| unique.get(id)).collect();
        let chunks = &chunks(&wanted);
        let order = &order;
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service)?;
            let (last, ahead) = chunks.split_last().ok_or_else(invalid_request)?;
            for chunk in ahead {
                if !self.commit(write_schemas(service, view, chunk)).await?.succeeded {
                    return Ok(None);
                }
            }
            let dropped: Vec<&String> = view.schemas.keys().filter(|id| !order.contains(id)).collect();
            let mut txn = write_schemas(service, view, last);
            for id in dropped.iter().take(SCHEMAS_PER_TXN) {
                txn.then.extend(delete_schema_keys(service, id));
            }
            txn.then.push(self.declare_schemas(service, view, order.clone()));
            // Only the record that declares them: the old contents may be too large to be read with the
            // write.
            let committed = self.commit_noting(txn, &[keys::service(service)]).await?.succeeded;
            // When more schemas were dropped than one transaction deletes, the next step deletes the others.
            let complete = dropped.len() <= SCHEMAS_PER_TXN;
            if committed && complete {
                chunks
                    .iter()
                    .flatten()
                    .for_each(|schema| trail::changed(None, Some(schema.schema.as_bytes())));
            }
            Ok((committed && complete).then_some(()))
        })
        .await
    }

    /// Deletes a schema. Its id stays declared, as with Service-Center.
    pub(crate) async fn delete_schema(&self, service: &ServiceRef, id: &str) -> Result<(), RegistryError> {
        validate::schema_id(id)?;
        self.schema_summary(&Caller::of_tenant(&service.tenant), service, id).await?;
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service)?;
            let mut txn = unchanged(service, view);
            txn.then.extend(delete_schema_keys(service, id));
            let record = record_of(service, id);
            Ok(self.commit_noting(txn, &record).await?.succeeded.then_some(()))
        })
        .await
    }

    fn declare_schemas(&self, service: &ServiceRef, view: &ServiceView, ids: Vec<String>) -> Op {
        let mut changed = view.service.as_deref().cloned().unwrap_or_default();
        changed.schemas = ids;
        changed.mod_timestamp = self.seconds();
        Op::put(keys::service(service), record::render(&changed, view.unknown.as_deref()))
    }
}

/// Service-Center refuses a bad batch of schemas with this sentence, whichever of them is wrong.
fn invalid_request() -> RegistryError {
    RegistryError::invalid("Invalid request.")
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn declared_ids(view: &ServiceView) -> Vec<String> {
    view.service.as_ref().map(|record| record.schemas.clone()).unwrap_or_default()
}

/// Declared ids first, then ids that only have a content.
fn listed_ids(view: &Arc<ServiceView>) -> Vec<String> {
    let mut ids = declared_ids(view);
    let undeclared: Vec<String> = view.schemas.keys().filter(|id| !ids.contains(id)).cloned().collect();
    ids.extend(undeclared);
    ids
}

/// A transaction that writes contents and summaries while the service's record is as the view shows it.
fn write_schemas(service: &ServiceRef, view: &ServiceView, schemas: &[Schema]) -> Txn {
    let mut txn = unchanged(service, view);
    for schema in schemas {
        let [content, summary, reference] = keys_of(service, &schema.schema_id);
        txn.then.extend(content.map(|key| Op::put(key, schema.schema.clone())));
        // Without a new summary the old one stays.
        if !schema.summary.is_empty() {
            txn.then.extend(summary.map(|key| Op::put(key, schema.summary.clone())));
        }
        txn.then.extend(reference.map(Op::Delete));
    }
    txn
}

fn delete_schema_keys(service: &ServiceRef, id: &str) -> impl Iterator<Item = Op> + use<> {
    keys_of(service, id).into_iter().flatten().map(Op::Delete)
}

/// The key of a schema's content, for the audit log.
fn record_of(service: &ServiceRef, id: &str) -> Vec<String> {
    Key::Schema(service.clone(), id.to_owned()).render().into_iter().collect()
}

/// The keys of content, summary and reference of a schema.
fn keys_of(service: &ServiceRef, id: &str) -> [Option<String>; 3] {
    KEYS_OF_A_SCHEMA.map(|key| key(service.clone(), id.to_owned()).render())
}

/// Cuts schemas into lists that each fit into one transaction.
fn chunks(schemas: &[&Schema]) -> Vec<Vec<Schema>> {
    let mut chunks: Vec<Vec<Schema>> = Vec::new();
    let mut bytes = 0;
    for schema in schemas {
        // A content that is larger than a chunk gets one of its own, and the store decides about it.
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
