//! A gRPC client that knows nothing of Jetmill: it learns everything by server reflection, and
//! speaks JSON to the tests.

use std::collections::BTreeSet;

use anyhow::Context as _;
use futures::stream;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
    prost::Message as _, prost_types::FileDescriptorProto,
};
use serde_json::Value;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// Answers in JSON, or the server's refusal.
type Answer<T> = anyhow::Result<Result<T, Status>>;

/// A connection and what the server says about itself.
pub(super) struct Stranger {
    channel: Channel,
    pool: DescriptorPool,
    /// The services that the server lists.
    pub(super) services: BTreeSet<String>,
}

impl Stranger {
    /// Connects and asks what there is.
    pub(super) async fn connect(channel: Channel) -> anyhow::Result<Self> {
        let mut asker = Asker(ServerReflectionClient::new(channel.clone()));
        let MessageResponse::ListServicesResponse(list) =
            asker.ask(MessageRequest::ListServices(String::new())).await?
        else {
            anyhow::bail!("no list of services");
        };
        let services: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
        let mut files = Vec::new();
        for service in &services {
            asker.files(MessageRequest::FileContainingSymbol(service.clone()), &mut files).await?;
        }
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files).context("the descriptors do not fit together")?;
        Ok(Self { channel, pool, services })
    }

    fn method(&self, service: &str, method: &str) -> anyhow::Result<MethodDescriptor> {
        let described = self.pool.get_service_by_name(service);
        let described = described.with_context(|| format!("{service} is not described"))?;
        let found = described.methods().find(|found| found.name() == method);
        found.with_context(|| format!("{service} has no method {method}"))
    }

    /// Calls a method with a JSON request.
    pub(super) async fn call(&self, service: &str, method: &str, request: Value) -> Answer<Value> {
        let method = self.method(service, method)?;
        let message = from_json(method.input(), request)?;
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.context("the server does not answer")?;
        match grpc.unary(Request::new(message), path(&method)?, Dynamic(method.output())).await {
            Ok(answer) => Ok(Ok(to_json(&answer.into_inner())?)),
            Err(status) => Ok(Err(status)),
        }
    }

    /// Opens a stream of the server's.
    pub(super) async fn watch(
        &self,
        service: &str,
        method: &str,
        request: Value,
    ) -> Answer<Streaming<DynamicMessage>> {
        let method = self.method(service, method)?;
        let message = from_json(method.input(), request)?;
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.context("the server does not answer")?;
        let codec = Dynamic(method.output());
        let opened = grpc.server_streaming(Request::new(message), path(&method)?, codec).await;
        Ok(opened.map(tonic::Response::into_inner))
    }
}

fn path(method: &MethodDescriptor) -> anyhow::Result<PathAndQuery> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    PathAndQuery::try_from(path).context("a method's name is no path")
}

fn from_json(message: MessageDescriptor, json: Value) -> anyhow::Result<DynamicMessage> {
    DynamicMessage::deserialize(message, json).context("the request does not fit its description")
}

/// A message as JSON with the names of the contract.
pub(super) fn to_json(message: &DynamicMessage) -> anyhow::Result<Value> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}

struct Asker(ServerReflectionClient<Channel>);

impl Asker {
    async fn ask(&mut self, request: MessageRequest) -> anyhow::Result<MessageResponse> {
        let host = String::new();
        let request = ServerReflectionRequest { host, message_request: Some(request) };
        let answers = self.0.server_reflection_info(stream::iter([request])).await?;
        let answer = answers.into_inner().message().await?.context("reflection does not answer")?;
        answer.message_response.context("an empty answer of reflection")
    }

    /// The file of the request and all that it needs.
    async fn files(
        &mut self,
        request: MessageRequest,
        known: &mut Vec<FileDescriptorProto>,
    ) -> anyhow::Result<()> {
        let mut wanted = vec![request];
        while let Some(request) = wanted.pop() {
            let MessageResponse::FileDescriptorResponse(found) = self.ask(request.clone()).await?
            else {
                anyhow::bail!("{request:?} has no file");
            };
            for bytes in found.file_descriptor_proto {
                let file = FileDescriptorProto::decode(bytes.as_slice())?;
                if known.iter().any(|other| other.name() == file.name()) {
                    continue;
                }
                wanted.extend(file.dependency.iter().cloned().map(MessageRequest::FileByFilename));
                known.push(file);
            }
        }
        Ok(())
    }
}

/// Messages of a type that is known only at run time.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), buffer);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
