# escape=`
FROM mcr.microsoft.com/windows/nanoserver:ltsc2022
ENV APP="C:\app folder"
COPY testfile.txt c:\
WORKDIR C:\app
RUN dir c:\ `
    && echo done
CMD ["cmd", "/c", "dir"]
