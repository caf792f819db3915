package muster.test;

import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.Marshaller;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

/**
 * Calls the target for each line on the standard input, and prints an answer for each. Answers of calls that fail are
 * {@code error}, the code and the words.
 */
public final class Client {
    private static final Marshaller<byte[]> PLAIN = new Marshaller<>() {
        @Override
        public InputStream stream(byte[] bytes) {
            return new ByteArrayInputStream(bytes);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    };
    private static final MethodDescriptor<byte[], byte[]> METHOD = MethodDescriptor.<byte[], byte[]>newBuilder()
        .setType(MethodDescriptor.MethodType.UNARY)
        .setFullMethodName("muster.test.Echo/Name")
        .setRequestMarshaller(PLAIN)
        .setResponseMarshaller(PLAIN)
        .build();

    private Client() {
    }

    private static String call(ManagedChannel channel) {
        CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(20, TimeUnit.SECONDS);
        try {
            return new String(ClientCalls.blockingUnaryCall(channel, METHOD, options, new byte[0]));
        } catch (StatusRuntimeException error) {
            String words = String.valueOf(error.getStatus().getDescription()).replace('\n', ' ');
            return "error " + error.getStatus().getCode() + " " + words;
        }
    }

    public static void main(String[] arguments) throws IOException {
        ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        while (lines.readLine() != null) {
            System.out.println(call(channel));
        }
        System.exit(0);
    }
}
