FROM eclipse-temurin:21-jdk-jammy AS deps
WORKDIR /build
COPY --chmod=0755 mvnw mvnw
COPY .mvn/ .mvn/
RUN --mount=type=bind,source=pom.xml,target=pom.xml --mount=type=cache,target=/root/.m2 \
    ./mvnw dependency:go-offline -DskipTests

FROM deps AS package
COPY ./src src/
RUN --mount=type=bind,source=pom.xml,target=pom.xml --mount=type=cache,target=/root/.m2 \
    ./mvnw package -DskipTests && \
    mv target/$(./mvnw help:evaluate -Dexpression=project.artifactId -q -DforceStdout)-*.jar target/app.jar

FROM package AS extract
RUN java -Djarmode=layertools -jar target/app.jar extract --destination target/extracted

FROM eclipse-temurin:21-jre-jammy AS final
COPY --from=extract build/target/extracted/dependencies/ ./
COPY --from=extract build/target/extracted/application/ ./
ENV JAVA_OPTS="-Xmx512m -Dfile.encoding=UTF-8"
WORKDIR $JAVA_HOME/lib
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENTRYPOINT exec java $JAVA_OPTS org.springframework.boot.loader.launch.JarLauncher
ONBUILD COPY --chown=1000 . /app
ONBUILD RUN <<EOF
chmod -R go-w /app
EOF
