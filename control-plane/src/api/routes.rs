//! Every route: path, handler, name in metrics, and what its document says.

use std::collections::BTreeMap;

use shared::model::{Framework, Instance, Service};

use super::operation::{Operation, delete, get, object, of, post, put};
use super::{dependencies, discovery, health, instances, schemas, services, tags};
use crate::failure::Code::{
    HasConsumers, HasInstances, InstanceNotFound, MixedRules, NotEnoughQuota, RuleNotFound, RuleTypeFixed,
    SchemaNotFound, ServiceConflict, ServiceNotFound, TagNotFound, VersionNotFound,
};
use crate::registry::heartbeat::Beat;
use crate::registry::schema::Schema;
use crate::view::ServiceRule;

mod operator;
mod shapes;

pub(super) use operator::{admin, govern, govern_v3, root};

use operator::{HEALTH, version};
use shapes::{DeletedService, Dependency, KeptInstance, Matches};

type Text = BTreeMap<String, String>;

const TAGS: super::operation::Parameter = ("tags", "Comma list of tag keys that the provider must have.");
const NO_CACHE: super::operation::Parameter = ("noCache", "`1` or `true`: always answer in full.");
const FILTERS: &[super::operation::Parameter] = &[
    ("sameDomain", "`1`: only partners of the same tenant."),
    ("noSelf", "`1`: without the service itself."),
];
const SUMMARY: &str = "X-Schema-Summary";

/// The routes that v4 and v3 share.
pub(super) fn registry() -> Vec<Operation> {
    let mut all = services();
    all.extend(instances());
    all.extend(belongings());
    all.extend(dependencies());
    all
}

fn services() -> Vec<Operation> {
    vec![
        get(
            "/existence",
            services::existence,
            "ResourceExist",
            "Whether a service or a schema exists; gives its id.",
        )
        .query(&[
            ("type", "`microservice` or `schema`."),
            ("appId", "Application of the service."),
            ("serviceName", "Name of the service, or its alias."),
            ("version", "Version or version rule; of several matches the newest counts."),
            ("env", "Environment of the service; may be empty."),
            ("serviceId", "Of a schema: the service that has it."),
            ("schemaId", "Of a schema: its id."),
        ])
        .gives(object! { "serviceId": String, "schemaId": String })
        .header(SUMMARY, "Of a schema: its summary.")
        .refuses(&[ServiceNotFound, SchemaNotFound, VersionNotFound]),
        post("/microservices", services::register, "RegisterService", "Register a version of a service.")
            .takes(object! {
                "service": Service, "rules": Vec<ServiceRule>, "tags": Text, "instances": Vec<Instance>,
            })
            .gives(object! { "serviceId": String })
            .refuses(&[ServiceConflict, NotEnoughQuota]),
        get("/microservices", services::list, "ListService", "All services of the tenant.")
            .gives(object! { "services": Vec<Service> }),
        delete(
            "/microservices",
            services::delete_many,
            "UnregisterManyService",
            "Delete many services; each is answered for.",
        )
        .takes(object! { "serviceIds": Vec<String>, "force": bool })
        .gives(object! { "services": Vec<DeletedService> }),
        get("/microservices/{serviceId}", services::get, "GetService", "A service.")
            .gives(object! { "service": Service })
            .refuses(&[ServiceNotFound]),
        delete("/microservices/{serviceId}", services::delete, "UnregisterService", "Delete a service.")
            .query(&[("force", "`1` or `true`: also when others depend on it or it has instances.")])
            .refuses(&[ServiceNotFound, HasInstances, HasConsumers]),
        put(
            "/microservices/{serviceId}/properties",
            services::update,
            "PutServiceProperties",
            "Replace a service's properties.",
        )
        .takes(object! { "properties": Text, "framework": Framework })
        .refuses(&[ServiceNotFound]),
    ]
}

fn instances() -> Vec<Operation> {
    vec![
        get(
            "/instances",
            discovery::find,
            "FindInstances",
            "Find a provider's instances; with a consumer this records a dependency.",
        )
        .query(&[
            ("appId", "Application of the provider."),
            ("serviceName", "Name of the provider, or its alias."),
            ("version", "Version rule; all without it."),
            ("env", "Environment of the provider; that of the consumer has precedence."),
            TAGS,
            NO_CACHE,
        ])
        .for_consumer()
        .with_revision()
        .gives(object! { "instances": Vec<Instance> })
        .refuses(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/instances",
            instances::register,
            "RegisterInstance",
            "Register an instance; one that lives is kept alive.",
        )
        .takes(object! { "instance": Instance })
        .gives(object! { "instanceId": String })
        .refuses(&[ServiceNotFound, NotEnoughQuota]),
        get(
            "/microservices/{serviceId}/instances",
            discovery::list,
            "ListInstance",
            "The instances of a service.",
        )
        .query(&[TAGS, NO_CACHE])
        .for_consumer()
        .with_revision()
        .gives(object! { "instances": Vec<Instance> })
        .refuses(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/instances/{instanceId}",
            discovery::one,
            "GetInstance",
            "An instance.",
        )
        .query(&[TAGS, NO_CACHE])
        .for_consumer()
        .with_revision()
        .gives(object! { "instance": Instance })
        .refuses(&[ServiceNotFound, InstanceNotFound]),
        delete(
            "/microservices/{serviceId}/instances/{instanceId}",
            instances::unregister,
            "UnregisterInstance",
            "End an instance.",
        )
        .refuses(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/heartbeat",
            instances::heartbeat,
            "SendHeartbeat",
            "Keep an instance alive.",
        )
        .refuses(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/properties",
            instances::update_properties,
            "PutInstanceProperties",
            "Replace an instance's properties.",
        )
        .takes(object! { "properties": Text })
        .refuses(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/status",
            instances::update_status,
            "PutInstanceStatus",
            "Put an instance into a state.",
        )
        .query(&[("value", "`UP`, `DOWN`, `STARTING`, `TESTING` or `OUTOFSERVICE`.")])
        .refuses(&[InstanceNotFound]),
        put(
            "/heartbeats",
            instances::heartbeats,
            "SendManyHeartbeat",
            "Keep many instances alive; each is answered for.",
        )
        .takes(object! { "instances": Vec<Beat> })
        .gives(object! { "instances": Vec<KeptInstance> }),
    ]
}

fn belongings() -> Vec<Operation> {
    vec![
        get(
            "/microservices/{serviceId}/schemas",
            schemas::list,
            "ListSchema",
            "The schemas of a service, in the order of their declaration.",
        )
        .query(&[("withSchema", "`1`: with their contents.")])
        .gives(object! { "schemas": Vec<Schema> })
        .refuses(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/schemas",
            schemas::replace,
            "PutSchemas",
            "Replace all schemas of a service.",
        )
        .takes(object! { "schemas": Vec<Schema> })
        .refuses(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/schemas/{schemaId}",
            schemas::get,
            "GetSchema",
            "The content of a schema.",
        )
        .gives(object! { "schema": String })
        .header(SUMMARY, "The schema's summary; may be empty.")
        .refuses(&[ServiceNotFound, SchemaNotFound]),
        put("/microservices/{serviceId}/schemas/{schemaId}", schemas::put, "PutSchema", "Store a schema.")
            .takes(of::<Schema>())
            .refuses(&[ServiceNotFound, NotEnoughQuota]),
        delete(
            "/microservices/{serviceId}/schemas/{schemaId}",
            schemas::delete,
            "DeleteSchema",
            "Delete a schema and its declaration.",
        )
        .refuses(&[ServiceNotFound, SchemaNotFound]),
        get("/microservices/{serviceId}/tags", tags::get, "ListTag", "The tags of a service.")
            .gives(object! { "tags": Text })
            .refuses(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/tags",
            tags::replace,
            "PutManyTags",
            "Replace all tags of a service.",
        )
        .takes(object! { "tags": Text })
        .refuses(&[ServiceNotFound, NotEnoughQuota]),
        put("/microservices/{serviceId}/tags/{key}", tags::update, "PutTag", "Change the value of a tag.")
            .query(&[("value", "The new value.")])
            .refuses(&[ServiceNotFound, TagNotFound]),
        delete(
            "/microservices/{serviceId}/tags/{key}",
            tags::delete,
            "DeleteManyTags",
            "Delete tags, all of which must exist.",
        )
        .refuses(&[ServiceNotFound, TagNotFound]),
        get(
            "/microservices/{serviceId}/rules",
            tags::rules,
            "GetRules",
            "The black or white rules of a service.",
        )
        .gives(object! { "rules": Vec<ServiceRule> })
        .refuses(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/rules",
            tags::add_rules,
            "AddRule",
            "Add rules; one that exists is passed over.",
        )
        .takes(object! { "rules": Vec<ServiceRule> })
        .gives(object! { "RuleIds": Vec<String> })
        .refuses(&[MixedRules, NotEnoughQuota]),
        put(
            "/microservices/{serviceId}/rules/{ruleId}",
            tags::update_rule,
            "UpdateRule",
            "Change a rule; its type stays.",
        )
        .takes(of::<ServiceRule>())
        .refuses(&[ServiceNotFound, RuleNotFound, RuleTypeFixed]),
        delete(
            "/microservices/{serviceId}/rules/{ruleId}",
            tags::delete_rules,
            "DeleteRule",
            "Delete rules, all of which must exist.",
        )
        .refuses(&[ServiceNotFound, RuleNotFound]),
    ]
}

fn dependencies() -> Vec<Operation> {
    const DEPRECATION: &str = "`version=\"v4\"`, as it always said.";
    vec![
        post("/dependencies", dependencies::add, "AddDependencies", "Add to the providers of consumers.")
            .takes(object! { "dependencies": Vec<Dependency> })
            .header("Deprecation", DEPRECATION)
            .refuses(&[ServiceNotFound]),
        put(
            "/dependencies",
            dependencies::overwrite,
            "PutDependencies",
            "Replace the providers of consumers.",
        )
        .takes(object! { "dependencies": Vec<Dependency> })
        .header("Deprecation", DEPRECATION)
        .refuses(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/providers",
            dependencies::providers,
            "ListProviders",
            "The services that a consumer depends on.",
        )
        .query(FILTERS)
        .gives(object! { "providers": Vec<Service> })
        .refuses(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/consumers",
            dependencies::consumers,
            "ListConsumers",
            "The services that depend on a provider.",
        )
        .query(FILTERS)
        .gives(object! { "consumers": Vec<Service> })
        .refuses(&[ServiceNotFound]),
    ]
}

/// What v3 never had.
pub(super) fn registry_v4() -> Vec<Operation> {
    vec![
        post(
            "/instances/action",
            discovery::batch,
            "InstancesAction",
            "Find many at once; each is answered for.",
        )
        .query(&[("type", "`query`.")])
        .for_consumer()
        .takes(of::<discovery::BatchBody>())
        .gives(object! { "services": discovery::Section, "instances": discovery::Section }),
        put(
            "/instances/status",
            instances::update_status_of_many,
            "UpdateManyInstanceStatus",
            "Put all instances with certain properties into a state.",
        )
        .takes(object! { "matches": Matches, "status": String }),
        get("/version", health::version_v4, "GetVersion", "The release of this node.")
            .tenantless()
            .gives(version()),
        get("/health", health::cluster, "ClusterHealth", "The live nodes of this release.")
            .tenantless()
            .gives(object! { "instances": Vec<Instance> })
            .refuses(HEALTH),
        get("/health/readiness", health::readiness, "Readiness", "Whether this node may be given work.")
            .tenantless()
            .refuses(&[crate::failure::Code::NotReady]),
    ]
}
