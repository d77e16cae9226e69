#!/bin/sh
set -e
# Options by the environment, as with most images of Java programs.
exec java $JAVA_OPTS -jar /opt/lines.jar "$@"
